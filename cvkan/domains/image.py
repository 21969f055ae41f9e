"""The image domain: name the class of an image; headline metric accuracy."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cvkan.domains import cache as cache_module
from cvkan.domains import cifar, image_download, image_folder, mnist
from cvkan.domains.augment import Encode, augmentation
from cvkan.domains.image_set import DataSet, ImageSettings, Source, WithoutTestPart, image_task
from cvkan.domains.paths import printable
from cvkan.domains.splits import parts
from cvkan.domains.task import Data, Split, Task
from cvkan.errors import DataError

PARTS = ("train", "validation", "test")
PIECE = 1024
"""Images that are decoded and written at a time."""


class DigitsSettings(WithoutTestPart):
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998), 8 x 8 pixels; embedded: `root` and `download` change nothing."""

    name: Literal["digits"] = "digits"


def _open_digits(_: DigitsSettings) -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]  # grey levels 0 ... 16
    labels = bunch.target.astype(np.int64)
    return Source("scikit-learn's digits", [str(name) for name in bunch.target_names], labels, lambda indices: images[indices], None)


def _files(layout: cifar.Layout | mnist.Layout, names: tuple[str, ...], settings: ImageSettings) -> dict[str, Any]:
    folder = settings.root_folder() / layout.folder
    try:
        return cache_module.signature(folder, names)
    except OSError as error:
        missing = error.filename if folder.exists() else folder
        hint = f"`cvkan data prepare {settings.name} --download` fetches it, or set data.root"
        raise DataError(f"{missing} not found; {hint}") from error


def _cifar(layout: cifar.Layout, settings: type[ImageSettings]) -> DataSet:
    return DataSet(
        Settings=settings,
        augment="crop_flip",  # He et al. 2016, section 4.2
        task=lambda _: image_task(cifar.SHAPE, layout.n_classes),
        signature=partial(_files, layout, layout.files),
        source=partial(cifar.open_cifar, layout),
        folder=layout.folder,
        fetch=partial(image_download.fetch_cifar, layout),
    )


def _mnist(layout: mnist.Layout, settings: type[ImageSettings], augment: Literal["none", "crop_flip"]) -> DataSet:
    return DataSet(
        Settings=settings,
        augment=augment,
        task=lambda _: image_task(mnist.SHAPE, len(layout.classes)),
        signature=partial(_files, layout, mnist.FILES),
        source=partial(mnist.open_mnist, layout),
        folder=layout.folder,
        fetch=partial(image_download.fetch_mnist, layout),
    )


DATA_SETS: dict[str, DataSet] = {
    "digits": DataSet(
        Settings=DigitsSettings,
        augment="none",
        task=lambda _: image_task((1, 8, 8), 10),
        signature=lambda _: {"scikit-learn": importlib.metadata.version("scikit-learn")},
        source=_open_digits,
        folder=None,
    ),
    "cifar10": _cifar(cifar.CIFAR10, cifar.Cifar10Settings),
    "cifar100": _cifar(cifar.CIFAR100, cifar.Cifar100Settings),
    "fashion_mnist": _mnist(mnist.FASHION_MNIST, mnist.FashionMnistSettings, "crop_flip"),  # Zhong et al. 2020, section 4.1
    "mnist": _mnist(mnist.MNIST, mnist.MnistSettings, "none"),
    "folder": DataSet(
        Settings=image_folder.FolderSettings,
        augment="flip",
        task=image_folder.folder_task,
        signature=image_folder.folder_signature,
        source=image_folder.open_folder,
        folder=None,
    ),
}


def task(settings: ImageSettings) -> Task:
    """The task; reads no image. Raises DataError where a folder of images is missing or has fewer than two classes."""
    return DATA_SETS[settings.name].task(settings)


def prepare(settings: ImageSettings, cache: Path) -> Path:
    """Decodes the data set into a folder of the cache, unless it is there (`download`: fetches it first); returns the folder.

    Arrays: {train,validation,test}_x uint8 (N, C, H, W) and _y int64 (N,). Safe when several processes prepare at once. Raises DataError.
    """
    return _entry(settings, cache).folder


def load(settings: ImageSettings, cache: Path) -> Data:
    """The data set as memory-mapped tensors, decoded first where it is not. Raises DataError."""
    entry = _entry(settings, cache)
    train, validation, test = (Split(*(torch.from_numpy(entry.array(f"{part}_{axis}")) for axis in "xy")) for part in PARTS)
    encode = Encode(entry.about["mean"], entry.about["std"])
    name = DATA_SETS[settings.name].augment if settings.augment == "auto" else settings.augment
    return Data(task(settings), train, validation, test, entry.hash, encode, augmentation(name, encode))


def check(settings: ImageSettings, cache: Path) -> list[str]:
    """Lines: the folder and its hash, then size and examples per class of every part. Reads everything; DataError where it is damaged."""
    entry = _entry(settings, cache)
    damaged = entry.damaged()
    if damaged:
        raise DataError(f"{entry.folder}: damaged content ({', '.join(damaged)}); remove this folder, and it is decoded again")
    lines = [f"{settings.name}: {entry.folder}, content as written, hash {entry.hash}"]
    for part in PARTS:
        size = " x ".join(str(length) for length in entry.arrays[f"{part}_x"].shape[1:])
        counts = np.bincount(entry.array(f"{part}_y"), minlength=len(entry.about["classes"]))
        per_class = ", ".join(f"{name} {count}" for name, count in zip(entry.about["classes"], counts, strict=True))
        lines.append(f"{part}: {counts.sum()} images of {size}: {per_class}")
    return [printable(line) for line in lines]


def found(root: Path) -> dict[str, str]:
    """Data set to "found", "not found" (under `root`) or "embedded"; `folder`, which lies anywhere, is left out. Raises nothing."""
    state = {"digits": "embedded"}
    for name, data_set in DATA_SETS.items():
        if data_set.folder is not None:
            state[name] = "found" if (root / data_set.folder).is_dir() else "not found"
    return state


def _entry(settings: ImageSettings, cache: Path) -> cache_module.Entry:
    data_set = DATA_SETS[settings.name]
    if settings.download and data_set.fetch:
        data_set.fetch(settings)
    options = settings.model_dump(mode="json", exclude={"root", "download", "augment"})
    identity = {"source": data_set.signature(settings), "options": options}
    return cache_module.ensure(cache, f"image-{settings.name}", identity, partial(_decode, data_set, settings))


def _decode(data_set: DataSet, settings: ImageSettings, writer: cache_module.Writer) -> dict[str, Any]:
    """Splits, decodes and writes all parts; returns what `load` needs beside the tensors."""
    source = data_set.source(settings)
    _check_classes(source)
    shape = data_set.task(settings).shape
    sizes = {"train": settings.n_train, "validation": settings.n_validation, "test": settings.n_test}
    test = settings.test if isinstance(settings, WithoutTestPart) else 0.0
    indices = parts(source.labels, source.official_test, test, settings.validation, sizes, settings.split_seed)
    histograms = {part: np.zeros((shape[0], 256), dtype=np.int64) for part in PARTS}
    for part, chosen in indices.items():
        writer.write(f"{part}_x", np.uint8, (len(chosen), *shape), _images(source, chosen, histograms[part]))
        writer.write(f"{part}_y", np.int64, (len(chosen),), [source.labels[chosen]])
    mean, std = _moments(histograms["train"])
    return {"source": source.origin, "classes": source.classes, "mean": mean, "std": std}


def _check_classes(source: Source) -> None:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    empty = [name for name, count in zip(source.classes, counts, strict=True) if not count]
    if empty:
        raise DataError(f"{source.origin}: empty class: no image of {', '.join(empty)}")


def _images(source: Source, indices: NDArray[np.int64], histogram: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Pieces (n, C, H, W), while the pixel values are counted into `histogram` (C, 256)."""
    for start in range(0, len(indices), PIECE):
        piece = source.read(indices[start : start + PIECE])
        for channel, counts in enumerate(histogram):
            counts += np.bincount(piece[:, channel].ravel(), minlength=256)
        yield piece


def _moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in [0, 1], from counts (C, 256); exact, so the same on every machine."""
    values = np.arange(256) / 255
    mean = histogram @ values / histogram.sum(1)
    std = np.sqrt((histogram * (values - mean[:, None]) ** 2).sum(1) / histogram.sum(1))
    return mean.tolist(), std.tolist()
