"""The audio domain: name the class of a sound, from complex STFT frames or from its waveform; headline metric accuracy.

The cache holds a data set's waveforms as int16. Beside them may lie STFT frames, for each n_fft and hop that somebody prepared,
and the constants that scale them; none of that is part of the data set's hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from cvkan.domains.audio_augment import shift, shift_mask
from cvkan.domains.audio_set import FRAME_SETTINGS, AudioSettings, audio_task, describe
from cvkan.domains.cache import Entry, Writer, ensure, opened, place
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, splits
from cvkan.domains.speech_commands import FOLDER, SpeechCommandsSettings, speech_signature, write_speech
from cvkan.domains.speech_commands import RATE as SPEECH_RATE
from cvkan.domains.stft import EncodeClips, EncodeFrames, Transform, constants, n_bins, n_frames
from cvkan.domains.task import Data, Split, Task
from cvkan.domains.tones import N_CLASSES, TonesSettings, write_tones
from cvkan.domains.tones import RATE as TONES_RATE
from cvkan.domains.wave_folder import FolderSettings, class_folders, folder_signature, write_folder
from cvkan.errors import DataError

MEASURED = 2048
"""Training clips, evenly spread, on which the scale of STFT frames is measured."""
PIECE = 64
"""Clips that are transformed and written at a time."""


@dataclass(frozen=True)
class AudioDomain:
    """See `cvkan.domains.protocol.Domain`."""

    clips: CachedDomain
    """The domain as far as it concerns waveforms."""

    @property
    def DATA_SETS(self) -> Mapping[str, DataSet]:
        """Data sets by name."""
        return self.clips.DATA_SETS

    def task(self, settings: AudioSettings) -> Task:
        """The task. Raises DataError where a folder is missing or has fewer than two classes."""
        return self.clips.task(settings)

    def prepare(self, settings: AudioSettings, cache: Path) -> Path:
        """Decodes the clips into a folder of the cache, and transforms them unless `precomputed` is false; returns the folder."""
        folder = self.clips.prepare(settings, cache)
        entry = opened(folder)
        assert entry is not None, folder
        if settings.features == "stft" and settings.precomputed is not False:
            _ensure_frames(settings, entry)
        return folder

    def load(self, settings: AudioSettings, cache: Path) -> Data:
        """The data set as memory-mapped tensors, decoded first where it is not. Raises DataError."""
        return self.clips.load(settings, cache)

    def check(self, settings: AudioSettings, cache: Path) -> list[str]:
        """The folder and its hash, each part's clips per class, and whether STFT frames lie there. DataError where something is damaged."""
        lines = self.clips.check(settings, cache)
        if settings.features == "waveform":
            return lines
        n_fft, hop = settings.frame()
        entry = opened(self.clips.prepare(settings, cache))
        assert entry is not None
        frames = opened(_frames_place(settings, entry))
        if frames is None:
            return [*lines, f"STFT frames (n_fft {n_fft}, hop {hop}): not in the cache"]
        damaged = frames.damaged()
        if damaged:
            raise DataError(f"{frames.folder}: damaged content ({', '.join(damaged)}); remove this folder, and it is computed again")
        size = sum(info.bytes for info in frames.arrays.values()) / 1e6
        return [*lines, f"STFT frames (n_fft {n_fft}, hop {hop}): {frames.folder}, {size:.0f} MB, content as written"]

    def found(self, root: Path) -> dict[str, str]:
        """Data set to "found", "not found" (under `root`) or "embedded"; `folder`, which lies anywhere, is left out. Raises nothing."""
        return self.clips.found(root)


def _frames_identity(settings: AudioSettings, entry: Entry) -> dict[str, Any]:
    n_fft, hop = settings.frame()
    return {"clips": entry.hash, "n_fft": n_fft, "hop": hop, "version": 1}


def _frames_place(settings: AudioSettings, entry: Entry) -> Path:
    return place(entry.folder.parent, f"audio-{settings.name}-stft", _frames_identity(settings, entry))


def _ensure_frames(settings: AudioSettings, entry: Entry) -> Entry:
    """The entry with the STFT frames of all clips of `entry`, computed where it is not there."""
    fill = partial(_write_frames, settings, entry)
    return ensure(entry.folder.parent, f"audio-{settings.name}-stft", _frames_identity(settings, entry), fill)


def _write_frames(settings: AudioSettings, entry: Entry, writer: Writer) -> dict[str, Any]:
    n_fft, hop = settings.frame()
    transform = Transform(n_fft, hop)
    for part in PARTS:
        clips = torch.from_numpy(entry.array(f"{part}_x"))
        shape = (len(clips), n_frames(clips.shape[1], hop), n_bins(n_fft), 2)
        writer.write(f"{part}_x", np.float16, shape, _transformed(transform, clips))
    return {}


def _transformed(transform: Transform, clips: Tensor) -> Iterator[NDArray[np.float16]]:
    for piece in torch.split(clips, PIECE):
        yield transform(piece).numpy()


def _scales(settings: AudioSettings, entry: Entry) -> tuple[float, float]:
    """Scale and gain of the STFT frames, see cvkan.domains.stft; measured once and kept in the cache."""

    def measure(_: Writer) -> dict[str, Any]:
        clips = torch.from_numpy(entry.array("train_x"))
        rows = torch.linspace(0, len(clips) - 1, min(MEASURED, len(clips))).long()
        scale, gain = constants(Transform(*settings.frame()), clips[rows], settings.compress)
        return {"scale": scale, "gain": gain}

    identity = {**_frames_identity(settings, entry), "compress": settings.compress}
    about = ensure(entry.folder.parent, f"audio-{settings.name}-scale", identity, measure).about
    return about["scale"], about["gain"]


def _open(settings: AudioSettings, entry: Entry) -> Data:
    task = audio_task(settings, len(entry.about["classes"]))
    train, validation, test = splits(entry)
    if settings.features == "waveform":
        encode_clips = EncodeClips(1 / entry.about["power"] ** 0.5 if entry.about["power"] else 1.0)
        return Data(task, train, validation, test, entry.hash, encode_clips, _augmentation(settings))
    frames = _frames(settings, entry)
    if frames is not None:
        train, validation, test = (
            Split(torch.from_numpy(frames.array(f"{part}_x")), split.y)
            for part, split in zip(PARTS, (train, validation, test), strict=True)
        )
    transform = Transform(*settings.frame()) if frames is None else None
    scale, gain = _scales(settings, entry)
    encode = EncodeFrames(transform, scale, settings.compress, gain)
    return Data(task, train, validation, test, entry.hash, encode, _augmentation(settings))


def _frames(settings: AudioSettings, entry: Entry) -> Entry | None:
    """The STFT frames that the settings ask for; None where they are to be computed on every batch."""
    if settings.precomputed is True:
        return _ensure_frames(settings, entry)
    return opened(_frames_place(settings, entry)) if settings.precomputed == "auto" else None


def _augmentation(settings: AudioSettings) -> Callable[[Tensor, Generator], Tensor] | None:
    if settings.augment == "none" or (settings.augment == "auto" and not settings.AUGMENTED):
        return None
    return shift if settings.features == "waveform" else shift_mask


def _tones_task(settings: TonesSettings) -> Task:
    return audio_task(settings, N_CLASSES)


AUDIO = AudioDomain(
    CachedDomain(
        "audio",
        {
            "tones": DataSet(
                Settings=TonesSettings,
                task=_tones_task,
                signature=lambda _: {"version": 1},
                write=write_tones,
                open=_open,
                describe=lambda _, entry: describe(entry, TONES_RATE),
                unwritten=FRAME_SETTINGS,
                embedded=True,
            ),
            "speech_commands": DataSet(
                Settings=SpeechCommandsSettings,
                task=lambda settings: audio_task(settings, len(settings.classes())),
                signature=speech_signature,
                write=write_speech,
                open=_open,
                describe=lambda _, entry: describe(entry, SPEECH_RATE),
                unwritten=FRAME_SETTINGS,
                folder=FOLDER,
            ),
            "folder": DataSet(
                Settings=FolderSettings,
                task=lambda settings: audio_task(settings, len(class_folders(settings.folder()))),
                signature=folder_signature,
                write=write_folder,
                open=_open,
                describe=lambda settings, entry: describe(entry, settings.sample_rate),
                unwritten=FRAME_SETTINGS,
            ),
        },
    )
)
