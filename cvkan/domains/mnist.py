"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) in torchvision's layout: `NAME/raw/*-ubyte`, the idx format.

idx: two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a big-endian uint32, then the content.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cvkan.domains.image_set import ImageSettings, Source
from cvkan.errors import DataError

SHAPE = (1, 28, 28)
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class MnistSettings(ImageSettings):
    """MNIST (LeCun et al. 1998): 70,000 handwritten digits of 28 x 28 pixels."""

    name: Literal["mnist"] = "mnist"


class FashionMnistSettings(ImageSettings):
    """Fashion-MNIST (Xiao et al. 2017): 70,000 pictures of clothing of 28 x 28 pixels in 10 classes."""

    name: Literal["fashion_mnist"] = "fashion_mnist"


@dataclass(frozen=True)
class Layout:
    """Where a data set lies, and its classes."""

    torchvision: Literal["MNIST", "FashionMNIST"]
    """The class of torchvision.datasets that knows the addresses and the MD5 sums of the archives."""
    folder: str
    classes: tuple[str, ...]


MNIST = Layout("MNIST", "MNIST/raw", tuple("0123456789"))
FASHION_MNIST = Layout(
    "FashionMNIST",
    "FashionMNIST/raw",
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def open_mnist(layout: Layout, settings: ImageSettings) -> Source:
    """All images of the folder under `settings.root`, training images first. Raises DataError where a file is damaged."""
    folder = settings.root_folder() / layout.folder
    train, test = (_part(folder / images, folder / labels, len(layout.classes)) for images, labels in (FILES[:2], FILES[2:]))
    images, labels = np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]])
    return Source(str(folder), list(layout.classes), labels, lambda indices: images[indices], np.arange(len(train[1]), len(labels)))


def _part(images_path: Path, labels_path: Path, n_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != SHAPE[1:] or not len(images):
        raise DataError(f"{images_path}: images of 28 x 28 pixels expected, found an array {images.shape}; {_AGAIN}")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for {len(images)} images; {_AGAIN}")
    if labels.max() >= n_classes:
        raise DataError(f"{labels_path}: label {labels.max()} is no class number from 0 to {n_classes - 1}; {_AGAIN}")
    return images[:, None], labels.astype(np.int64)


_AGAIN = "remove the file and download it again"


def read_idx(path: Path, n_dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array in an idx file. Raises DataError where it is no such file or is cut short."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    start = 4 + 4 * n_dimensions
    if len(raw) < start or raw[:4] != bytes((0, 0, 8, n_dimensions)):
        raise DataError(f"{path}: no idx file of bytes in {n_dimensions} dimensions; {_AGAIN}")
    shape = struct.unpack(f">{n_dimensions}I", raw[4:start])
    expected = start + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise DataError(f"{path}: {len(raw)} bytes, {expected} expected from its header: truncated or damaged; {_AGAIN}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)
