"""Modular arithmetic: right answers, one division of all equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cvkan.domains.arithmetic import ARITHMETIC, AdditionSettings, MultiplicationSettings
from cvkan.domains.task import Data


def rows(data: Data) -> tuple[Tensor, Tensor]:
    """All equations (N, 3) and results (N), in the order of the parts."""
    parts = (data.train, data.validation, data.test)
    return torch.cat([data.encode(part.x) for part in parts]), torch.cat([part.y for part in parts])


@pytest.mark.parametrize("p", [3, 30, 31, 113])
@pytest.mark.parametrize(("settings", "operation"), [(AdditionSettings, torch.add), (MultiplicationSettings, torch.mul)])
def test_the_parts_are_all_equations_once_with_their_results(settings: Any, operation: Any, p: int, cache_dir: Path) -> None:
    x, y = rows(ARITHMETIC.load(settings(p=p), cache_dir))
    assert len(x.unique(dim=0)) == len(x) == p * p
    assert (x[:, :2] < p).all() and (x[:, 2] == p).all()
    assert torch.equal(y.long(), operation(x[:, 0], x[:, 1]) % p)


def test_the_largest_modulus_fits_its_type(cache_dir: Path) -> None:
    data = ARITHMETIC.load(AdditionSettings(p=1024), cache_dir)
    x, y = rows(data)
    assert x.max() == 1024 and x.min() == 0 and data.task.vocabulary == 1025
    assert torch.equal(y.long(), x[:, :2].sum(1) % 1024)


@pytest.mark.parametrize(
    ("fraction", "sizes"), [(0.4, (384, 288, 289)), (0.3, (288, 336, 337)), (1e-9, (1, 480, 480)), (0.9999, (959, 1, 1))]
)
def test_fraction_is_trained_on_and_the_rest_is_halved(fraction: float, sizes: tuple[int, ...], cache_dir: Path) -> None:
    data = ARITHMETIC.load(AdditionSettings(p=31, fraction=fraction), cache_dir)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes


def test_the_data_seed_alone_decides_what_is_trained_on(cache_dir: Path) -> None:
    first, other = (ARITHMETIC.load(AdditionSettings(data_seed=seed), cache_dir) for seed in (0, 1))
    product = ARITHMETIC.load(MultiplicationSettings(), cache_dir)
    assert torch.equal(first.train.x, product.train.x) and not torch.equal(first.train.x, other.train.x)
    assert len({first.hash, other.hash, product.hash}) == 3


def test_the_training_part_holds_every_number(cache_dir: Path) -> None:
    """A split by blocks instead of by lot would leave numbers out."""
    x = ARITHMETIC.load(AdditionSettings(), cache_dir).train.x
    assert len(x[:, 0].unique()) == len(x[:, 1].unique()) == 31


@pytest.mark.parametrize("changes", [{"p": 2}, {"p": 1025}, {"fraction": 0.0}, {"fraction": 1.0}, {"data_seed": -1}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="should be"):
        AdditionSettings(**changes)


def test_check_counts_the_equations(cache_dir: Path) -> None:
    lines = ARITHMETIC.check(AdditionSettings(p=7), cache_dir)
    assert lines[1:] == ["train: 20 equations mod 7", "validation: 14 equations mod 7", "test: 15 equations mod 7"]
