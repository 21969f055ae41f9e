"""MNIST and Fashion-MNIST from idx files."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import datasets  # type: ignore[import-untyped]

from cvkan.domains import image
from cvkan.domains.mnist import FILES, FashionMnistSettings, MnistSettings
from cvkan.errors import DataError


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents() -> dict[str, bytes]:
    draws = np.random.default_rng(0)
    arrays = [draws.integers(0, 256, (100, 28, 28)), np.arange(100) % 10, draws.integers(0, 256, (30, 28, 28)), np.arange(30) % 10]
    return {name: idx(array.astype(np.uint8)) for name, array in zip(FILES, arrays, strict=True)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("MNIST", "FashionMNIST"):
        (tmp_path / folder / "raw").mkdir(parents=True)
        for name, content in contents().items():
            (tmp_path / folder / "raw" / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(("settings", "augmented"), [(MnistSettings, False), (FashionMnistSettings, True)])
def test_images_are_those_that_torchvision_reads(
    root: Path, settings: type[MnistSettings] | type[FashionMnistSettings], augmented: bool
) -> None:
    data = image.load(settings(root=str(root)), root / "cache")
    reference = (datasets.FashionMNIST if augmented else datasets.MNIST)(root, train=False)
    assert torch.equal(data.test.x[:, 0], reference.data)
    assert torch.equal(data.test.y, reference.targets)
    assert (len(data.train), len(data.validation)) == (90, 10)
    assert data.task.shape == (1, 28, 28)
    assert (data.augment is not None) == augmented


def test_a_missing_file_names_the_command(root: Path) -> None:
    (root / "MNIST" / "raw" / FILES[3]).unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte not found; `cvkan data prepare mnist --download` fetches it"):
        image.load(MnistSettings(root=str(root)), root / "cache")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (FILES[0], contents()[FILES[0]][:-1], "78415 bytes, 78416 expected"),
        (FILES[0], b"", "no idx file of bytes in 3 dimensions"),
        (FILES[0], contents()[FILES[1]], "no idx file of bytes in 3 dimensions"),
        (FILES[1], contents()[FILES[3]], "30 labels for 100 images"),
        (FILES[2], idx(np.zeros((30, 28, 27), np.uint8)), "28 x 28 pixels expected"),
        (FILES[3], idx(np.full(30, 10, np.uint8)), "label 10 is no class number from 0 to 9"),
        (FILES[0], struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "truncated or damaged"),
    ],
)
def test_a_wrong_file_is_named(root: Path, name: str, content: bytes, message: str) -> None:
    (root / "MNIST" / "raw" / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        image.load(MnistSettings(root=str(root)), root / "cache")


def test_download_tries_the_next_mirror(tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = served
    for name, content in contents().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in folder.iterdir()]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address + "down/", address])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    data = image.load(MnistSettings(root=str(tmp_path / "fetched"), download=True), tmp_path / "cache")
    assert len(data.test) == 30
    assert {path.name for path in (tmp_path / "fetched" / "MNIST" / "raw").iterdir()} == set(FILES)
