"""One wav or flac file as a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvkan.errors import DataError

SUFFIXES = (".wav", ".flac")
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC")
"""What soundfile calls the formats that may be read; it tells them by content, whatever the file is called."""


def read_clip(path: Path, rate: int, samples: int, setting: str) -> NDArray[np.int16]:
    """The first `samples` of a file of `rate` samples a second, zeros after its end; channels are averaged.

    Raises DataError where the file is unreadable, cut short or empty, or has another rate; `setting` says what may then be done.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in FORMATS:
                raise DataError(f"{path}: is neither wav nor flac ({file.format}); convert or remove it")
            if file.samplerate != rate:
                raise DataError(f"{path}: {file.samplerate} Hz, expected {rate} Hz; {setting}")
            if not file.frames:
                raise DataError(f"{path}: holds no samples; remove it")
            expected = min(samples, file.frames)
            waves = file.read(expected, dtype="float32", always_2d=True).mean(1)
            cut = len(waves) < expected
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"{path}: unreadable audio ({str(error).rstrip('.')}); repair or remove it") from error
    if cut or _cut_short(path):
        raise DataError(f"{path}: cut short: it holds less than its header says; repair or remove it")
    if not np.isfinite(waves).all():
        raise DataError(f"{path}: holds samples that are no numbers; repair or remove it")
    clip = np.zeros(samples, dtype=np.int16)
    clip[: len(waves)] = np.rint(waves * 32768).clip(-32768, 32767)
    return clip


def _cut_short(path: Path) -> bool:
    """Whether a RIFF file ends before its header says; the decoder reads what there is without a word."""
    with open(path, "rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:], "little")
    # Writers that cannot seek leave the size unset.
    return head[:4] == b"RIFF" and 0 < size < 0xFFFFFF00 and size + 8 > path.stat().st_size
