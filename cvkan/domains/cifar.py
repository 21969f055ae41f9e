"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in torchvision's layout: folders of pickled batches, read without running what they hold."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cvkan.domains.image_set import ImageSettings, Source
from cvkan.errors import DataError

SHAPE = (3, 32, 32)


class CifarSettings(ImageSettings):
    """Settings of both."""

    outside_key: ClassVar[frozenset[str]] = ImageSettings.outside_key | {"unverified"}

    unverified: bool = False
    """Accept a local copy whose MD5 differs from the published one."""


class Cifar10Settings(CifarSettings):
    """CIFAR-10 (Krizhevsky 2009): 60,000 colour photographs of 32 x 32 pixels in 10 classes."""

    name: Literal["cifar10"] = "cifar10"


class Cifar100Settings(CifarSettings):
    """CIFAR-100 (Krizhevsky 2009): 60,000 colour photographs of 32 x 32 pixels in 100 classes."""

    name: Literal["cifar100"] = "cifar100"


@dataclass(frozen=True)
class Layout:
    """Where a data set lies and how its batches name things."""

    torchvision: Literal["CIFAR10", "CIFAR100"]
    """The class of torchvision.datasets that knows the address and the MD5 sums."""
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    """Key of a batch's labels."""
    names: str
    """Key of the class names in the meta file."""
    n_classes: int

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, self.meta)


CIFAR10 = Layout(
    "CIFAR10",
    "cifar-10-batches-py",
    ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    ("test_batch",),
    "batches.meta",
    "labels",
    "label_names",
    10,
)
CIFAR100 = Layout("CIFAR100", "cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names", 100)


def open_cifar(layout: Layout, settings: CifarSettings) -> Source:
    """All images of the folder under `settings.root`, training batches first. Raises DataError where one is damaged or unverified."""
    folder = settings.root_folder() / layout.folder
    published = None if settings.unverified else _published_md5(layout)
    contents = {name: _content(folder / name, published[name] if published else None) for name in layout.files}
    batches = [_batch(folder / name, contents[name], layout) for name in (*layout.train, *layout.test)]
    names = contents[layout.meta].get(layout.names)
    if not isinstance(names, list) or len(names) != layout.n_classes:
        raise DataError(f"{folder / layout.meta}: {layout.n_classes} class names expected under {layout.names!r}; {_AGAIN}")
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    n_train = sum(len(labels) for _, labels in batches[: len(layout.train)])
    return Source(str(folder), [str(name) for name in names], labels, lambda indices: images[indices], np.arange(n_train, len(labels)))


_AGAIN = "remove the folder and download it again"


def _published_md5(layout: Layout) -> dict[str, str]:
    from torchvision import datasets

    published = {"CIFAR10": datasets.CIFAR10, "CIFAR100": datasets.CIFAR100}[layout.torchvision]
    return {**dict(published.train_list), **dict(published.test_list), published.meta["filename"]: published.meta["md5"]}


def _content(path: Path, md5: str | None) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    actual = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if md5 is not None and actual != md5:
        raise DataError(f"{path}: MD5 is {actual}, expected {md5}; {_AGAIN}, or set data.unverified: true to accept this local copy")
    return unpickled(raw, path)


def _batch(path: Path, content: dict[str, Any], layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,) of one batch."""
    images, labels = content.get("data"), content.get(layout.labels)
    pixels = int(np.prod(SHAPE))
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != pixels or not len(images):
        raise DataError(f"{path}: images of {pixels} bytes each expected under 'data'; {_AGAIN}")
    if not isinstance(labels, list) or len(labels) != len(images):
        raise DataError(f"{path}: {len(images)} images but no {len(images)} labels under {layout.labels!r}; {_AGAIN}")
    if not all(isinstance(label, int) and 0 <= label < layout.n_classes for label in labels):
        raise DataError(f"{path}: a label is no class number from 0 to {layout.n_classes - 1}; {_AGAIN}")
    return images.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


def unpickled(raw: bytes, path: Path) -> dict[str, Any]:
    """The dict in a pickle of plain values and uint8 arrays. Nothing the pickle names is imported or called. Raises DataError."""
    try:
        content = _plain(_Unpickler(io.BytesIO(raw), encoding="latin1").load())
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly any exception
        raise DataError(f"{path}: truncated or damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a dict expected, found {type(content).__name__}; {_AGAIN}")
    return content


class _Dtype:
    """Stands for numpy.dtype in a pickle."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and fields mean nothing for uint8."""


class _Array:
    """Stands for numpy.ndarray in a pickle, so that numpy, which trusts array states, never sees one."""

    state: Any = None

    def __init__(self, *_: object) -> None:
        """The arguments of numpy's _reconstruct say nothing about the content."""

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        _, shape, dtype, fortran_order, raw = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1", "uint8"):
            raise DataError("holds an array that is not uint8")
        flat = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype=np.uint8)
        return flat.reshape(shape, order="F" if fortran_order else "C")


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, by which protocol 2 stores bytes."""
    if encoding != "latin1":
        raise DataError(f"encodes bytes as {encoding!r}; latin1 expected")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f"refused: the pickle asks for {module}.{name}, which no CIFAR batch needs")
        return _ALLOWED[module, name]


def _plain(content: object) -> object:
    """Stand-ins in a dict become arrays."""
    if not isinstance(content, dict):
        return content
    return {key: value.array() if isinstance(value, _Array) else value for key, value in content.items()}
