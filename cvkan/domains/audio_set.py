"""What an audio data set is made of: its settings, its clips, and the arrays they are stored in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cvkan.domains.cache import Entry, Writer
from cvkan.domains.cached import PARTS, DataSettings
from cvkan.domains.stft import Compress, n_bins, n_frames
from cvkan.domains.task import Task

PIECE = 256
"""Clips that are decoded and written at a time."""
Pieces = Iterator[tuple[NDArray[np.int16], NDArray[np.int64]]]
"""Clips (n, samples) and their classes (n,), some at a time."""


class AudioSettings(DataSettings):
    """Settings of every audio data set."""

    PRESETS: ClassVar[Mapping[str, int]] = {"normal": 1024, "fast": 512}
    """From `preset` to n_fft."""
    AUGMENTED: ClassVar[bool] = True
    """Whether `augment: auto` stands for shift_mask."""
    synonyms: ClassVar[Mapping[str, str]] = {
        "augmentation": "augment",
        "feature": "features",
        "input": "features",
        "fft": "n_fft",
        "window": "n_fft",
        "hop_length": "hop",
        "precompute": "precomputed",
        "use_precomputed": "precomputed",
        "compression": "compress",
    }

    features: Literal["stft", "waveform"] = "stft"
    """What a model gets: complex STFT frames as tokens, or the samples themselves."""
    preset: Literal["normal", "fast"] = "normal"
    """Length of an STFT frame in samples, with a hop of a quarter of it: normal 1024, fast 512; of tones 256 and 128."""
    n_fft: int | None = Field(default=None, ge=4, le=65_536)
    """Samples of an STFT frame; null leaves it to the preset."""
    hop: int | None = Field(default=None, ge=1, le=65_536)
    """Samples between the centres of neighbouring frames, at most n_fft; null is n_fft / 4."""
    precomputed: Literal["auto", True, False] = "auto"
    """STFT frames from the cache: true computes them once, false on every batch, auto takes them where `cvkan data prepare` has left them.
    Inputs are the same. They are float16: a second at 16 kHz takes 130 kB (its samples 32 kB), all of Speech Commands 14 GB."""
    compress: Compress = "none"
    """Magnitudes of STFT frames: as they are (none), or compressed (log), which keeps phases and raises quiet bins, noise too."""
    augment: Literal["auto", "none", "shift_mask"] = "auto"
    """Training clips moved in time by up to a tenth, and a run of frames and one of bins set to zero (of waveforms only the first)."""

    @abstractmethod
    def clip_samples(self) -> int:
        """Samples of every clip."""

    def frame(self) -> tuple[int, int]:
        """n_fft and hop, in samples."""
        n_fft = self.n_fft if self.n_fft is not None else self.PRESETS[self.preset]
        return n_fft, self.hop if self.hop is not None else max(1, n_fft // 4)

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.features == "waveform":
            for name in ("preset", "n_fft", "hop", "precomputed", "compress"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise _stated("idle", f"{name} has no effect on features waveform")
            return self
        n_fft, hop = self.frame()
        if hop > n_fft:
            raise _stated("hop", f"hop {hop} is more than n_fft, {n_fft}: samples between frames would be lost")
        # Frames at the ends are filled by reflection, which needs more samples than it fills.
        if self.clip_samples() <= n_fft // 2:
            raise _stated("n_fft", f"n_fft {n_fft} needs clips of more than {n_fft // 2} samples; these have {self.clip_samples()}")
        return self


def _stated(kind: str, text: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{text}", {"text": text})


FRAME_SETTINGS = frozenset({"features", "preset", "n_fft", "hop", "precomputed", "compress", "augment"})
"""Settings that do not change the stored waveforms."""


@dataclass(frozen=True)
class Clips:
    """Clips to read, before they are split."""

    classes: list[str]
    labels: NDArray[np.int64]
    """Class of every clip (N,), each in 0 ... len(classes) - 1."""
    read: Callable[[int], NDArray[np.int16]]
    """A clip (samples,) by its index into labels. Raises DataError."""


def write_part(writer: Writer, part: str, shape: tuple[int, int], pieces: Pieces) -> float:
    """Writes {part}_x int16 (n, samples) and {part}_y int16 (n,); returns the mean square of x."""
    labels: list[NDArray[np.int64]] = []
    squares: list[int] = []

    def clips() -> Iterator[NDArray[np.int16]]:
        for x, y in pieces:
            labels.append(y)
            squares.append(int(np.square(x, dtype=np.int64).sum()))
            yield x

    writer.write(f"{part}_x", np.int16, shape, clips())
    writer.write(f"{part}_y", np.int16, shape[:1], labels)
    return sum(squares) / (shape[0] * shape[1])


def write_clips(writer: Writer, samples: int, clips: Clips, indices: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    """Writes the clips of each part; returns what is needed to open them."""
    power = {part: write_part(writer, part, (len(chosen), samples), _pieces(clips, chosen)) for part, chosen in indices.items()}
    return {"classes": clips.classes, "power": power["train"]}


def _pieces(clips: Clips, indices: NDArray[np.int64]) -> Pieces:
    for start in range(0, len(indices), PIECE):
        chosen = indices[start : start + PIECE]
        yield np.stack([clips.read(int(index)) for index in chosen]), clips.labels[chosen]


def describe(entry: Entry, rate: int) -> list[str]:
    """A line for each part: clips, their seconds, and clips per class."""
    lines = []
    for part in PARTS:
        n, samples = entry.arrays[f"{part}_x"].shape
        counts = np.bincount(entry.array(f"{part}_y"), minlength=len(entry.about["classes"]))
        per_class = ", ".join(f"{name} {count}" for name, count in zip(entry.about["classes"], counts, strict=True))
        lines.append(f"{part}: {n} clips of {samples / rate:g} s at {rate} Hz: {per_class}")
    return lines


def audio_task(settings: AudioSettings, n_classes: int) -> Task:
    """The task of naming the class of a clip."""
    samples = settings.clip_samples()
    if settings.features == "waveform":
        return Task("waveform", (samples,), "classes", n_classes)
    n_fft, hop = settings.frame()
    return Task("complex", (n_frames(samples, hop), n_bins(n_fft), 2), "classes", n_classes)
