"""What an image data set is made of: its settings, and the functions that find and read its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cvkan.domains.augment import Augmentation
from cvkan.domains.paths import expanded
from cvkan.domains.task import Task
from cvkan.settings import Settings


class ImageSettings(Settings):
    """Settings of every image data set."""

    outside_key: ClassVar[frozenset[str]] = frozenset({"root", "download"})
    synonyms: ClassVar[Mapping[str, str]] = {
        "augmentation": "augment",
        "data_dir": "root",
        "directory": "root",
        "seed": "split_seed",
        "validation_fraction": "validation",
        "val": "validation",
    }

    name: str
    root: str = "data"
    """Folder that holds the data sets in torchvision's layout."""
    download: bool = False
    """Fetch what is missing from the internet."""
    augment: Literal["auto", "none", "crop_flip", "flip"] = "auto"
    """Random crops and flips of training images; auto is what is usual for the data set."""
    n_train: int | None = Field(default=None, ge=1)
    """Size of a class-balanced subset of the training part; all of it without."""
    n_validation: int | None = Field(default=None, ge=1)
    """The same of the validation part."""
    n_test: int | None = Field(default=None, ge=1)
    """The same of the test part."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of the examples outside the test part that is held out for validation."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of splits and subsets, apart from the trial's seed."""

    def root_folder(self) -> Path:
        """`root` as a path, with a leading ~ replaced by the home folder. Raises DataError where it can be none."""
        return expanded(self.root, "data.root")


class WithoutTestPart(ImageSettings):
    """Settings of a data set that has no official test part."""

    test: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of the examples that is held out for the test part."""


@dataclass(frozen=True)
class Source:
    """Images to read, before they are split."""

    origin: str
    """Where they come from, for messages."""
    classes: list[str]
    labels: NDArray[np.int64]
    """Class of every image (N,), each in 0 ... len(classes) - 1."""
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    """Indices (n,) into labels to images (n, C, H, W). Raises DataError."""
    official_test: NDArray[np.int64] | None
    """Indices of the official test part; None where there is none."""


@dataclass(frozen=True)
class DataSet:
    """An image data set; the functions take an instance of its `Settings`."""

    Settings: type[ImageSettings]
    augment: Augmentation
    """What `augment: auto` stands for."""
    task: Callable[[Any], Task]
    signature: Callable[[Any], dict[str, Any]]
    """Plain JSON values that change when the source does; reads no content. Raises DataError where files are missing."""
    source: Callable[[Any], Source]
    """Opens the source. Raises DataError where it is damaged."""
    folder: str | None
    """Where it lies under `root`; None where it does not."""
    fetch: Callable[[Any], None] | None = None
    """Downloads what is missing. Raises DataError."""


def image_task(shape: tuple[int, int, int], n_classes: int) -> Task:
    """The task of naming the class of an image (channels, height, width)."""
    return Task(input="image", shape=shape, output="classes", n_outputs=n_classes)
