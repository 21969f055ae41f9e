"""A folder of audio files: one sub-folder for each class, searched in depth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from cvkan.domains.audio_set import AudioSettings, Clips, write_clips
from cvkan.domains.cache import Writer, signature
from cvkan.domains.paths import check_names, check_regular, expanded
from cvkan.domains.splits import parts
from cvkan.domains.wave_files import SUFFIXES, read_clip
from cvkan.errors import DataError


class FolderSettings(AudioSettings):
    """A folder of your own wav or flac files, one sub-folder for each class; needs `path`. Channels are averaged."""

    outside_key: ClassVar[frozenset[str]] = AudioSettings.outside_key | {"path"}
    synonyms: ClassVar[Mapping[str, str]] = {
        **AudioSettings.synonyms,
        "directory": "path",
        "data_dir": "path",
        "rate": "sample_rate",
        "duration": "seconds",
        "seed": "split_seed",
        "val": "validation",
        "validation_fraction": "validation",
    }

    name: Literal["folder"] = "folder"
    path: str
    """The folder whose sub-folders are the classes."""
    sample_rate: int = Field(default=16_000, ge=100, le=1_000_000)
    """Samples a second of every file."""
    seconds: float = Field(default=1.0, gt=0, le=60)
    """Length of a clip: longer files are cut at their end, shorter ones filled with zeros."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of the files that is held out for the test part."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of the other files that is held out for validation."""
    n_train: int | None = Field(default=None, ge=1)
    """Size of a class-balanced subset of the training part; all of it without."""
    n_validation: int | None = Field(default=None, ge=1)
    """The same of the validation part."""
    n_test: int | None = Field(default=None, ge=1)
    """The same of the test part."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of splits and subsets, apart from the trial's seed."""

    def folder(self) -> Path:
        """`path` with a leading ~ replaced by the home folder. Raises DataError where it can be none."""
        return expanded(self.path, "data.path")

    def clip_samples(self) -> int:
        """Samples of every clip."""
        return max(1, round(self.seconds * self.sample_rate))


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted; hidden ones do not count. Raises DataError where there are fewer than two, or one is not UTF-8."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; set data.path to a folder with one sub-folder of audio for each class") from error
    check_names(folder, names)
    if len(names) < 2:
        raise DataError(f"{folder}: {len(names)} sub-folders found; at least two are needed, one for each class")
    return names


def folder_signature(settings: FolderSettings) -> dict[str, Any]:
    """Names, sizes and times of change of all files. Raises DataError where a class has none."""
    folder = settings.folder()
    try:
        return signature(folder, [name for names in _files(folder).values() for name in names])
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise DataError(f"{folder}: cannot be read: {error}; remove what is broken") from error


def write_folder(settings: FolderSettings, writer: Writer) -> dict[str, Any]:
    """Splits, decodes and writes all files. Raises DataError where one is damaged or of another rate."""
    folder = settings.folder()
    by_class = _files(folder)
    paths = [folder / name for names in by_class.values() for name in names]
    labels = np.repeat(np.arange(len(by_class)), [len(names) for names in by_class.values()])
    samples, rate = settings.clip_samples(), settings.sample_rate
    hint = "resample it, or set data.sample_rate to the rate of all files"
    sizes = {"train": settings.n_train, "validation": settings.n_validation, "test": settings.n_test}
    indices = parts(labels, None, settings.test, settings.validation, sizes, settings.split_seed)
    clips = Clips(list(by_class), labels, lambda index: read_clip(paths[index], rate, samples, hint))
    return write_clips(writer, samples, clips, indices)


def _files(folder: Path) -> dict[str, list[str]]:
    """Class to its files, as sorted paths below `folder`. Raises DataError where a class has none or a link leaves the folder."""
    by_class = {name: sorted(_walk(folder, name, folder.resolve())) for name in class_folders(folder)}
    for name, paths in by_class.items():
        if not paths:
            raise DataError(f"{folder / name}: empty class: no audio ({', '.join(SUFFIXES)}) found")
    return by_class


def _walk(folder: Path, name: str, real_root: Path) -> Iterator[str]:
    """Audio files below folder/name. Links must lead to files or folders within `real_root`; those to folders are not entered."""
    _check_link(folder / name, real_root)
    with os.scandir(folder / name) as entries:
        for entry in entries:
            inner = f"{name}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                check_names(folder / name, [entry.name])
                yield from _walk(folder, inner, real_root)
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                _check_link(folder / inner, real_root)
                check_names(folder / name, [entry.name])
                check_regular(folder / inner)
                yield inner


def _check_link(path: Path, real_root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(real_root):
        raise DataError(f"{path}: a link to {path.resolve()}, outside the folder, is refused; copy the audio into it")
