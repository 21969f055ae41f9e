"""CIFAR batches: the real ones, and files that are damaged, foreign or hostile."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets  # type: ignore[import-untyped]

from cvkan.domains import image
from cvkan.domains.cifar import Cifar10Settings, Cifar100Settings, unpickled
from cvkan.errors import DataError

BATCHES = [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]


def batch(seed: int, n: int = 40) -> dict[str, Any]:
    """A batch in the layout of CIFAR-10, smaller."""
    data = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
    return {"batch_label": "tiny", "labels": [index % 10 for index in range(n)], "data": data, "filenames": ["x.png"] * n}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a tiny cifar-10-batches-py."""
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        (folder / name).write_bytes(pickle.dumps(batch(seed), protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {index}" for index in range(10)]}, protocol=2))
    return tmp_path / "root"


def tiny(root: Path, **options: object) -> Cifar10Settings:
    return Cifar10Settings.model_validate({"root": str(root), "unverified": True, **options})


def test_the_real_cifar10(cifar10_root: Path, cache_dir: Path) -> None:
    data = image.load(Cifar10Settings(root=str(cifar10_root), unverified=True), cache_dir)
    assert [tuple(part.x.shape) for part in (data.train, data.validation, data.test)] == [(n, 3, 32, 32) for n in (45000, 5000, 10000)]
    assert torch.bincount(data.train.y).tolist() == [4500] * 10
    assert torch.bincount(data.validation.y).tolist() == [500] * 10
    test_batch = pickle.loads((cifar10_root / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert torch.equal(data.test.x.flatten(1), torch.from_numpy(test_batch["data"]))
    assert data.test.y.tolist() == test_batch["labels"]
    x = data.encode(data.train.x[:5000])
    assert x.mean((0, 2, 3)).abs().max() < 0.05 and (x.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert data.augment is not None
    assert data.augment(x[:8], torch.Generator().manual_seed(0)).shape == (8, 3, 32, 32)


def test_the_published_sums_of_the_real_cifar10_are_asked_for(cifar10_root: Path, cache_dir: Path) -> None:
    with pytest.raises(DataError) as caught:
        image.load(Cifar10Settings(root=str(cifar10_root)), cache_dir)
    message = str(caught.value)
    assert "data_batch_1: MD5 is " in message and "expected c99cafc152244af753f735de768cd75f" in message
    assert "data.unverified: true" in message


def test_a_touched_file_is_decoded_again_to_the_same_hash(root: Path, tmp_path: Path) -> None:
    first = image.prepare(tiny(root), tmp_path / "cache")
    before = image.load(tiny(root), tmp_path / "cache").hash
    os.utime(root / "cifar-10-batches-py" / "test_batch", (1, 1))
    assert image.prepare(tiny(root), tmp_path / "cache") != first
    assert image.load(tiny(root), tmp_path / "cache").hash == before


def test_changed_content_has_another_hash(root: Path, tmp_path: Path) -> None:
    before = image.load(tiny(root), tmp_path / "cache").hash
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch(99), protocol=2))
    assert image.load(tiny(root), tmp_path / "cache").hash != before


def test_accepting_an_unverified_copy_once_does_not_verify_it(root: Path, tmp_path: Path) -> None:
    image.prepare(tiny(root), tmp_path / "cache")
    with pytest.raises(DataError, match="MD5"):
        image.prepare(tiny(root, unverified=False), tmp_path / "cache")


def test_a_verified_copy_needs_no_setting(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (root / "cifar-10-batches-py").iterdir()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})
    assert len(image.load(tiny(root, unverified=False), tmp_path / "cache").train) == 180


def test_a_missing_folder_names_path_command_and_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        image.load(tiny(tmp_path / "nowhere"), tmp_path / "cache")
    expected = f"{tmp_path}/nowhere/cifar-10-batches-py not found; `cvkan data prepare cifar10 --download` fetches it, or set data.root"
    assert str(caught.value) == expected


def test_a_missing_batch_is_named(root: Path, tmp_path: Path) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_3"
    path.unlink()
    with pytest.raises(DataError, match="data_batch_3 not found"):
        image.load(tiny(root), tmp_path / "cache")


def wrong_labels(content: dict[str, Any]) -> None:
    content["labels"][7] = 10


def few_labels(content: dict[str, Any]) -> None:
    content["labels"].pop()


def cut_images(content: dict[str, Any]) -> None:
    content["data"] = content["data"][:, :3000]


def float_images(content: dict[str, Any]) -> None:
    content["data"] = content["data"].astype(np.float32)


def no_images(content: dict[str, Any]) -> None:
    del content["data"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_labels, "no class number from 0 to 9"),
        (few_labels, "40 images but no 40 labels"),
        (cut_images, "images of 3072 bytes each expected"),
        (float_images, "not uint8"),
        (no_images, "images of 3072 bytes each expected"),
    ],
)
def test_a_wrong_batch_is_named(root: Path, tmp_path: Path, damage: Any, message: str) -> None:
    content = batch(3)
    damage(content)
    (root / "cifar-10-batches-py" / "data_batch_4").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=f"data_batch_4: .*{message}"):
        image.load(tiny(root), tmp_path / "cache")


def test_an_empty_class_is_named(root: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(BATCHES):
        content = batch(seed)
        content["labels"] = [index % 9 for index in range(40)]
        (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match="empty class: no image of class 9"):
        image.load(tiny(root), tmp_path / "cache")


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, -1])
def test_a_truncated_batch_is_named(root: Path, tmp_path: Path, kept: int) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="data_batch_2: truncated or damaged"):
        image.load(tiny(root), tmp_path / "cache")


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.victim),))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_batch_does_not_run(root: Path, tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({**batch(0), "x": Hostile(victim)}, protocol=protocol))
    with pytest.raises(DataError, match=r"data_batch_1: refused: the pickle asks for \w+\.mkdir"):
        image.load(tiny(root), tmp_path / "cache")
    assert not victim.exists()


def test_names_of_numpy_are_not_resolved() -> None:
    raw = b"cnumpy\nload\n(S'x'\ntR."
    with pytest.raises(DataError, match=r"numpy\.load"):
        unpickled(raw, Path("batch"))


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_batches_of_old_and_new_numpy_are_read(module: str) -> None:
    content = batch(0)
    raw = pickle.dumps(content, protocol=2)
    written = next(name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray") if name in raw)
    read = unpickled(raw.replace(written, module.encode()), Path("batch"))
    np.testing.assert_array_equal(read["data"], content["data"])


def test_a_batch_of_python_2_is_read() -> None:
    """The published files: byte strings for keys and for the array's content (opcode T), which come back as latin1 text."""
    data = np.arange(3072, dtype=np.int64).astype(np.uint8)[None]
    raw = b"".join(
        [
            b"\x80\x02}(U\x06labels]K\x03aU\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00",
            data.tobytes(),
            b"tbu.",
        ]
    )
    read = unpickled(raw, Path("batch"))
    assert read["labels"] == [3]
    np.testing.assert_array_equal(read["data"], data)


def test_cifar100_is_read_by_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for seed, (name, n) in enumerate({"train": 2000, "test": 100}.items()):
        content = batch(seed, n)
        content["fine_labels"], content["coarse_labels"] = [index % 100 for index in range(n)], content.pop("labels")
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"fine_label_names": [f"fine {index}" for index in range(100)], "coarse_label_names": ["coarse"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    data = image.load(Cifar100Settings(root=str(tmp_path), unverified=True), tmp_path / "cache")
    assert data.task.n_outputs == 100
    assert data.test.y.tolist() == list(range(100))
    assert len(data.train) == 1800


def test_download_unpacks_what_the_address_gives(
    root: Path, tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = served[0] / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "url", served[1] + archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    fetched = tmp_path / "fetched"
    assert len(image.load(tiny(fetched, download=True), tmp_path / "cache").train) == 180
    assert [path.name for path in fetched.iterdir() if path.suffix != ".lock"] == ["cifar-10-batches-py"]


def test_a_download_that_fails_names_the_address_and_leaves_nothing(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = served[0] / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-py/test_batch"), io.BytesIO())
    monkeypatch.setattr(datasets.CIFAR10, "url", served[1] + archive.name)  # its MD5 is not the published one
    with pytest.raises(DataError, match=f"download from {served[1]}cifar.tar.gz failed"):
        image.load(tiny(tmp_path / "fetched", download=True), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "fetched").iterdir() if path.suffix != ".lock"] == []
