"""The image domain as a user meets it, on the embedded digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvkan.domains import DOMAINS, image
from cvkan.domains.cifar import Cifar10Settings
from cvkan.domains.image import DigitsSettings
from cvkan.domains.splits import parts
from cvkan.errors import DataError


def rows(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def test_the_names_of_data_sets_and_their_settings() -> None:
    assert list(image.DATA_SETS) == ["digits", "cifar10", "cifar100", "fashion_mnist", "mnist", "folder"]
    for name, data_set in image.DATA_SETS.items():
        fields = data_set.Settings.model_fields
        assert next(iter(fields)) == "name"
        assert fields["name"].default == name
        assert data_set.Settings.outside_key <= set(fields)
    assert DOMAINS["image"].DATA_SETS is image.DATA_SETS


def test_where_data_lies_is_no_part_of_a_trial() -> None:
    here = Cifar10Settings()
    there = Cifar10Settings.model_validate({"root": "/mnt", "download": True, "unverified": True})
    assert here.identity() == there.identity()
    assert {"n_train", "validation", "split_seed", "augment"} <= set(here.identity())


def test_digits_are_split_by_class(cache_dir: Path) -> None:
    data = image.load(DigitsSettings(), cache_dir)
    assert data.task == image.task(DigitsSettings())
    assert data.task.shape == (1, 8, 8) and data.task.n_outputs == 10
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    for part in (data.train, data.validation, data.test):
        counts = torch.bincount(part.y, minlength=10)
        assert part.x.dtype == torch.uint8 and part.y.dtype == torch.int64
        assert counts.min() > 0.9 * len(part) / 10
    assert data.augment is None


def test_encoded_training_images_have_mean_0_and_variance_1(cache_dir: Path) -> None:
    data = image.load(DigitsSettings(), cache_dir)
    x = data.encode(data.train.x)
    assert x.shape == (1294, 1, 8, 8)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std()) - 1) < 1e-3


def test_the_hash_follows_the_split_and_nothing_else(cache_dir: Path, tmp_path: Path) -> None:
    first = image.load(DigitsSettings(), cache_dir).hash
    assert image.load(DigitsSettings(root="elsewhere", augment="flip"), tmp_path).hash == first
    assert image.load(DigitsSettings(split_seed=1), cache_dir).hash != first
    assert image.load(DigitsSettings(n_train=100), cache_dir).hash != first


def test_a_smaller_training_part_leaves_the_other_parts_alone(cache_dir: Path) -> None:
    whole = image.load(DigitsSettings(), cache_dir)
    small = image.load(DigitsSettings(n_train=100), cache_dir)
    assert torch.bincount(small.train.y).tolist() == [10] * 10
    assert rows(small.train.x) <= rows(whole.train.x)
    for part, same in ((whole.validation, small.validation), (whole.test, small.test)):
        assert torch.equal(part.x, same.x) and torch.equal(part.y, same.y)


def test_subsets_of_validation_and_test(cache_dir: Path) -> None:
    data = image.load(DigitsSettings(n_validation=50, n_test=60), cache_dir)
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 50, 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": 2000}, "data.n_train: 2000 asked, but the train part has 1294"),
        ({"n_validation": 145}, "data.n_validation: 145 asked, but the validation part has 144"),
        ({"n_test": 360}, "data.n_test: 360 asked, but the test part has 359"),
        ({"n_train": 5}, "data.n_train: cannot take 5 of 1294 examples: .* the 10 classes; one part has 5 examples; ask for 10 or more"),
        ({"validation": 0.001}, "data.validation: cannot hold out 1 of 1438.*; one part has 1 examples; set at least 0.007"),
    ],
)
def test_a_size_that_cannot_be_had_is_named(cache_dir: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        image.load(DigitsSettings.model_validate(options), cache_dir)


@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=5),
    test=st.floats(0.2, 0.4),
    validation=st.floats(0.2, 0.4),
    n_train=st.none() | st.integers(5, 10),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_parts_never_overlap_and_keep_the_share_of_each_class(
    counts: list[int], test: float, validation: float, n_train: int | None, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).numpy()
    split = parts(labels, None, test, validation, {"train": n_train, "validation": None, "test": None}, seed)
    every = [int(index) for indices in split.values() for index in indices]
    assert len(every) == len(set(every))
    assert n_train is not None or len(every) == sum(counts)
    for indices in split.values():
        for label, count in enumerate(counts):
            assert abs((labels[indices] == label).sum() - len(indices) * count / sum(counts)) <= 2


def test_check_describes_every_part(cache_dir: Path) -> None:
    lines = image.check(DigitsSettings(), cache_dir)
    assert image.load(DigitsSettings(), cache_dir).hash in lines[0]
    assert [line.split(" images")[0] for line in lines[1:]] == ["train: 1294", "validation: 144", "test: 359"]
    assert "1 x 8 x 8" in lines[1] and lines[3].endswith("9 36")


def test_check_names_a_damaged_folder(tmp_path: Path) -> None:
    folder = image.prepare(DigitsSettings(), tmp_path)
    path = folder / "test_x.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DataError, match=r"damaged content \(test_x\); remove this folder") as caught:
        image.check(DigitsSettings(), tmp_path)
    assert str(folder) in str(caught.value)


def test_found_tells_what_lies_under_a_root(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    assert image.found(tmp_path) == {
        "digits": "embedded",
        "cifar10": "not found",
        "cifar100": "found",
        "fashion_mnist": "not found",
        "mnist": "not found",
    }


def test_a_decoded_data_set_loads_without_the_libraries_that_decode(cache_dir: Path) -> None:
    image.prepare(DigitsSettings(), cache_dir)
    code = (
        "import sys; from pathlib import Path; from cvkan.domains import image;"
        f"image.load(image.DigitsSettings(), Path({str(cache_dir)!r}));"
        "print([name for name in ('sklearn', 'torchvision', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
