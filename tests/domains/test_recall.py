"""Recall: pairs whose values are asked by key, and copying over a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cvkan.domains.recall import RECALL, CopySettings, PairsSettings
from cvkan.domains.task import Data, Split
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.spec import config_of

SMALL = {"n_train": 200, "n_validation": 50, "n_test": 60}


def parts(data: Data) -> dict[str, Split]:
    return {"train": data.train, "validation": data.validation, "test": data.test, **data.further}


def load(settings: Any, cache_dir: Path) -> Data:
    return RECALL.load(settings, cache_dir)


@pytest.mark.parametrize("changes", [{}, {"distractors": 5}, {"pairs": 1, "queries": 1, "keys": 1}, {"pairs": 6, "queries": 6, "keys": 6}])
def test_a_query_asks_for_the_value_after_its_key(changes: dict[str, int], cache_dir: Path) -> None:
    settings = PairsSettings(**{**SMALL, **changes})
    data = load(settings, cache_dir)
    listed = 2 * settings.pairs + settings.distractors
    for x, y in zip(data.train.x.tolist(), data.train.y.tolist(), strict=True):
        at = [place for place, token in enumerate(x[:listed]) if token < settings.keys]
        value_of = {x[place]: x[place + 1] - settings.keys for place in at}
        assert len(value_of) == settings.pairs
        assert all(0 <= value < settings.values for value in value_of.values())
        assert len(set(x[listed:])) == settings.queries
        assert y == [-100] * listed + [value_of[key] for key in x[listed:]]


def test_pairs_distractors_and_queries_stand_anywhere(cache_dir: Path) -> None:
    settings = PairsSettings(pairs=3, queries=1, distractors=3, keys=4, values=4, n_train=2000, n_validation=1, n_test=1)
    x = load(settings, cache_dir).train.x
    is_key = x < settings.keys
    assert len(is_key[:, :9].unique(dim=0)) == 20, "three pairs among three distractors"
    queried = (x[:, :9] == x[:, 9:]).int().argmax(1)
    assert set(queried.tolist()) == set(range(8)), "the key that is asked for stands anywhere"
    shares = torch.bincount(x[is_key].long(), minlength=4) / is_key.sum()
    assert (shares - 0.25).abs().max() < 0.03


def test_further_parts_have_more_pairs_and_more_tokens(cache_dir: Path) -> None:
    settings = PairsSettings(**SMALL, pairs=4, test_pairs=(4, 8, 16), distractors=2)
    data = load(settings, cache_dir)
    assert data.task.shape == (14,) and data.task.length == 38
    assert list(data.further) == list(data.task.further) == ["at_4", "at_8", "at_16"]
    assert {name: tuple(part.x.shape) for name, part in data.further.items()} == {"at_4": (60, 14), "at_8": (60, 22), "at_16": (60, 38)}
    assert torch.equal(data.further["at_4"].x, data.test.x)
    assert all(((part.y >= 0).sum(1) == 4).all() for part in parts(data).values())


def test_a_further_part_or_a_larger_one_changes_no_other(cache_dir: Path) -> None:
    plain = load(PairsSettings(**SMALL), cache_dir)
    more = load(PairsSettings(**{**SMALL, "n_train": 300}, test_pairs=(12,)), cache_dir)
    assert torch.equal(plain.test.x, more.test.x) and torch.equal(plain.validation.x, more.validation.x)
    assert torch.equal(plain.train.x, more.train.x[:200])


def test_parts_and_data_seeds_differ(cache_dir: Path) -> None:
    first, second = (load(PairsSettings(**SMALL, data_seed=seed), cache_dir) for seed in (0, 1))
    rows = [tuple(row) for data in (first, second) for part in parts(data).values() for row in part.x.tolist()]
    assert len(set(rows)) == len(rows)
    assert first.hash != second.hash


def test_a_copy_asks_for_the_segment_in_order(cache_dir: Path) -> None:
    settings = CopySettings(**SMALL, segment=3, gap=5, alphabet=4, test_gaps=(0, 20))
    data = load(settings, cache_dir)
    assert data.task.shape == (11,) and data.task.length == 26 and data.task.n_outputs == 4
    for name, gap in {"train": 5, "test": 5, "at_0": 0, "at_20": 20}.items():
        x, y = parts(data)[name].x, parts(data)[name].y
        segment, noise, marker = x.split([3, gap, 3], dim=1)
        assert segment.min() >= 0 and segment.max() == 3
        assert gap == 0 or (noise.min() == 4 and noise.max() == 7)
        assert (marker == 8).all()
        assert (y[:, :-3] < 0).all() and torch.equal(y[:, -3:], segment)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (PairsSettings, {"pairs": 40}, "pairs 40 needs as many different keys; keys is 32"),
        (PairsSettings, {"test_pairs": [16, 64]}, "test_pairs 64 needs as many different keys; keys is 32"),
        (PairsSettings, {"pairs": 3}, "queries 4 is more than pairs 3"),
        (PairsSettings, {"test_pairs": [2]}, "queries 4 is more than test_pairs 2"),
        (PairsSettings, {"test_pairs": [9, 16, 9]}, "test_pairs names 9 twice"),
        (CopySettings, {"test_gaps": [8, 8]}, "test_gaps names 8 twice"),
        (CopySettings, {"alphabet": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_check_names_the_chance_level(cache_dir: Path) -> None:
    lines = RECALL.check(PairsSettings(**SMALL, values=50, test_pairs=(16,)), cache_dir)
    assert "test: 60 examples of 20 tokens" in lines and "at_16: 60 examples of 36 tokens" in lines
    assert "chance level of accuracy: 0.02" in lines
    assert lines[-1].endswith("about 0.143")


def test_a_value_of_the_example_is_right_as_often_as_check_says(cache_dir: Path) -> None:
    data = load(PairsSettings(pairs=4, values=8, n_test=4000), cache_dir)
    guess = data.test.x[:, 1] - 32
    right = (data.test.y[:, -4:] == guess[:, None]).float().mean()
    assert np.isclose(right, 1 / 4 + 3 / 4 / 8, atol=0.02)


def trained(cache_dir: Path, data_settings: dict[str, Any], model: dict[str, Any], train: dict[str, Any]) -> dict[str, float]:
    """Test figures of a trial, seed 0."""
    config = config_of({
        "domain": "recall",
        "data": data_settings,
        "model": model,
        "optimizer": {"name": "adamw", "lr": 1e-2, "warmup": 0.05},
        "train": train,
    })  # fmt: skip
    learner = Learner(config, [0], RECALL.load(config.data, cache_dir), torch.device("cpu"))
    (member,) = learner.members
    while not learner.done:
        learner.epoch()
    return learner.test(member)


def test_an_associative_memory_recalls_and_a_single_phase_does_not(cache_dir: Path) -> None:
    """At the same 78 steps, with 32,000 parameters; the best guess without binding keys to values is near 0.2."""
    data, train = {"name": "pairs", "n_train": 10_000, "test_pairs": [16]}, {"epochs": 1}
    size = {"name": "tpi", "n_layers": 1, "d_model": 32}
    hybrid = trained(cache_dir, data, {**size, "variant": "hybrid", "shift": True}, train)
    single = trained(cache_dir, data, {**size, "variant": "single"}, train)
    assert hybrid["test_accuracy"] > 0.95 and hybrid["test_accuracy_at_16"] > 0.9
    assert 0.1 < single["test_accuracy"] < 0.5
