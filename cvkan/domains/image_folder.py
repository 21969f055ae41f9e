"""A folder of images: one sub-folder for each class, searched in depth."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cvkan.domains.cache import signature
from cvkan.domains.image_set import Source, WithoutTestPart, image_task
from cvkan.domains.paths import check_names, check_regular, expanded
from cvkan.domains.task import Task
from cvkan.errors import DataError

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Pillow's decoders that may run, and the suffixes of files that are taken for images."""


class FolderSettings(WithoutTestPart):
    """A folder of your own images, one sub-folder for each class; needs `path`."""

    outside_key: ClassVar[frozenset[str]] = WithoutTestPart.outside_key | {"path"}

    name: Literal["folder"] = "folder"
    path: str
    """The folder whose sub-folders are the classes."""
    image_size: int = Field(default=32, ge=1, le=4096)
    """Height and width in pixels; images are scaled, and cut to a square about their centre."""
    grayscale: bool = False
    """One channel instead of three."""

    def folder(self) -> Path:
        """`path` with a leading ~ replaced by the home folder. Raises DataError where it can be none."""
        return expanded(self.path, "data.path")


def folder_task(settings: FolderSettings) -> Task:
    """The task; lists the class folders only. Raises DataError where there are fewer than two."""
    return image_task(_shape(settings), len(class_folders(settings.folder())))


def folder_signature(settings: FolderSettings) -> dict[str, Any]:
    """Names, sizes and times of change of all images."""
    folder = settings.folder()
    try:
        return signature(folder, [name for names in _images(folder).values() for name in names])
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise DataError(f"{folder}: cannot be read: {error}; remove what is broken") from error


def open_folder(settings: FolderSettings) -> Source:
    """The images; they are decoded as they are read. Raises DataError where a class is empty."""
    folder = settings.folder()
    by_class = _images(folder)
    paths = [folder / name for names in by_class.values() for name in names]
    labels = np.repeat(np.arange(len(by_class)), [len(names) for names in by_class.values()])

    def read(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([decoded(paths[index], settings) for index in indices])

    return Source(str(folder), list(by_class), labels, read, None)


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted; hidden ones do not count. Raises DataError where there are fewer than two, one
    is a link that leaves the folder, or one is not UTF-8."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_symlink()) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; set data.path to a folder with one sub-folder of images for each class") from error
    check_names(folder, (name for name, _ in found))
    for name in (name for name, is_link in found if is_link):
        _check_link(folder / name, folder.resolve())
    names = [name for name, _ in found]
    if len(names) < 2:
        raise DataError(f"{folder}: {len(names)} sub-folders found; at least two are needed, one for each class")
    return names


def decoded(path: Path, settings: FolderSettings) -> NDArray[np.uint8]:
    """One image (C, H, W) with its short side scaled to image_size and the long one cut. Raises DataError."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=list(FORMATS)) as image:
                if image.mode[0] in "IF":  # conversion would clip 16-bit values to 255
                    raise DataError(f"{path}: more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
                upright = ImageOps.exif_transpose(image).convert("L" if settings.grayscale else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable image ({error}); repair or remove it") from error
    size = (settings.image_size, settings.image_size)
    pixels = np.asarray(ImageOps.fit(upright, size, Image.Resampling.BILINEAR))
    return pixels.reshape(*size, -1).transpose(2, 0, 1)


def _shape(settings: FolderSettings) -> tuple[int, int, int]:
    return (1 if settings.grayscale else 3, settings.image_size, settings.image_size)


def _images(folder: Path) -> dict[str, list[str]]:
    """Class to its images, as sorted paths below `folder`. Raises DataError where a class is empty or a link leaves the folder."""
    by_class = {name: sorted(_walk(folder, name)) for name in class_folders(folder)}
    for name, paths in by_class.items():
        if not paths:
            raise DataError(
                f"{folder / name}: empty class: no image ({', '.join(s for suffixes in FORMATS.values() for s in suffixes)}) found"
            )
    return by_class


def _walk(folder: Path, name: str) -> Iterator[str]:
    suffixes = {suffix for group in FORMATS.values() for suffix in group}
    real_root = folder.resolve()
    with os.scandir(folder / name) as entries:
        for entry in entries:
            inner = f"{name}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, inner)
            elif Path(entry.name).suffix.lower() in suffixes or entry.is_dir():
                if entry.is_symlink():
                    _check_link(folder / inner, real_root)
                check_regular(folder / inner)
                yield inner


def _check_link(path: Path, real_root: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(real_root):
        raise DataError(f"{path}: a link to {target}, outside the folder, is refused; copy the images into it")
    if not target.is_file():
        raise DataError(f"{path}: a link to {target}, which is no file, is refused; copy the images into it")
