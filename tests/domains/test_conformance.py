"""What every domain promises, on its embedded data set: the task, the parts, the cache, and that a model trains on it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cvkan.domains import DOMAINS
from cvkan.domains.objectives import OBJECTIVES, RISING
from cvkan.domains.objectives import figures as figure_names
from cvkan.domains.task import Data, Split, Task
from cvkan.models import MODELS, misfit
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.spec import config_of, data_from

FEW = {"n_train": 60, "n_validation": 40, "n_test": 40}
"""Sizes for those of these settings that a data set has."""
MORE: dict[str, list[dict[str, Any]]] = {
    "recall": [{"test_pairs": [10]}],
    "charlm": [{"test_lengths": [300]}],
    "audio": [{"features": "waveform", "augment": "shift_mask"}],
    "timeseries": [{"reversible": True}],
}
"""Further settings worth a look: further test parts, other inputs, augmentation."""
SEEDLESS = {"charlm": "a text is cut in its own order, so nothing is drawn"}
"""Domains whose embedded data set has no seed, and why."""
RARE: dict[str, str] = {"arithmetic": "each of 31 sums has few equations, and these are drawn without regard to it"}
"""Domains whose parts may lack a class of the embedded data set, and why."""
Case = tuple[str, dict[str, Any]]
CASES: list[Case] = [case for name in DOMAINS for case in [(name, {}), *((name, changes) for changes in MORE.get(name, []))]]


@dataclass(frozen=True)
class Loaded:
    """A case and its data."""

    domain: str
    settings: Any
    cache: Path
    data: Data

    @property
    def task(self) -> Task:
        return self.data.task

    @property
    def parts(self) -> dict[str, Split]:
        return {"train": self.data.train, "validation": self.data.validation, "test": self.data.test, **self.data.further}

    def inputs(self, part: str, n: int = 16) -> Tensor:
        return self.data.encode(self.parts[part].x[:n])


def tree(domain: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The domain and data settings of a case, a small one."""
    first, data_set = next(iter(DOMAINS[domain].DATA_SETS.items()))
    few = {key: value for key, value in FEW.items() if key in data_set.Settings.model_fields}
    return {"domain": domain, "data": {"name": first, **few, **changes}}


def settings_of(domain: str, changes: dict[str, Any]) -> Any:
    return data_from(parse(json.dumps(tree(domain, changes)), "x.yaml"))[1]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    domain, changes = request.param
    settings, cache = settings_of(domain, changes), tmp_path_factory.mktemp("cache")
    return Loaded(domain, settings, cache, DOMAINS[domain].load(settings, cache))


def test_the_task_is_known_without_decoding(loaded: Loaded) -> None:
    assert DOMAINS[loaded.domain].task(loaded.settings) == loaded.task
    objective = OBJECTIVES[loaded.task.output]
    assert loaded.task.metric in objective.metrics
    assert loaded.task.direction == ("max" if loaded.task.metric in RISING else "min")
    assert list(loaded.data.further) == list(loaded.task.further)


def test_inputs_are_what_the_task_says(loaded: Loaded) -> None:
    task = loaded.task
    for part, split in loaded.parts.items():
        assert len(split) == len(split.x) > 0
        x = loaded.inputs(part)
        # Examples of a further part may have another length, up to the longest that the task names.
        expected = task.shape if part not in task.further else (min(x.shape[1], task.length), *task.shape[1:])
        assert x.shape == (min(16, len(split)), *expected), part
        if task.input == "tokens":
            assert x.dtype == torch.int64 and x.min() >= 0 and x.max() < task.vocabulary
        else:
            assert x.dtype == torch.float32 and x.isfinite().all()
        assert torch.equal(x, loaded.inputs(part)), "encode is deterministic"


def test_padding_stands_at_the_end(loaded: Loaded) -> None:
    if loaded.task.padding is None:
        return
    for part in loaded.parts:
        real = loaded.inputs(part, 1000) != loaded.task.padding
        assert real[:, 0].all() and not (real[:, 1:] & ~real[:, :-1]).any()


def test_targets_are_what_the_task_says(loaded: Loaded) -> None:
    task = loaded.task
    for part, split in loaded.parts.items():
        y = split.y[:1000]
        if task.output == "forecast":
            assert y.dtype == torch.float32 and y.isfinite().all()
            assert y.shape[1:] == (task.horizon, task.n_outputs)
            continue
        assert not y.is_floating_point() and not y.is_complex()
        assert y.shape[1:] == (() if task.output == "classes" else loaded.inputs(part, 1).shape[1:2])
        y = y.long()
        asked = y[y >= 0] if task.output != "classes" else y
        assert len(asked) and asked.min() >= 0 and asked.max() < task.n_outputs


def test_every_class_can_be_learned_and_tested(loaded: Loaded) -> None:
    if loaded.task.output != "classes" or loaded.domain in RARE:
        return
    for split in (loaded.data.train, loaded.data.test):
        assert split.y.unique().tolist() == list(range(loaded.task.n_outputs))


def test_no_example_stands_in_two_parts(loaded: Loaded) -> None:
    """Windows of one series may share steps, but no window is in two parts."""
    rows = [{bytes(x.numpy().tobytes()) for x in split.x} for split in (loaded.data.train, loaded.data.validation, loaded.data.test)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_the_same_settings_decode_to_the_same_data(loaded: Loaded, tmp_path: Path) -> None:
    again = DOMAINS[loaded.domain].load(loaded.settings, tmp_path)
    assert again.hash == loaded.data.hash and len(again.hash) == 64
    for split, other in zip(loaded.parts.values(), (again.train, again.validation, again.test, *again.further.values()), strict=True):
        assert torch.equal(split.x, other.x) and torch.equal(split.y, other.y)


def test_the_cache_is_read_and_not_written_again(loaded: Loaded) -> None:
    domain = DOMAINS[loaded.domain]
    before = {path: path.stat().st_mtime_ns for path in loaded.cache.rglob("*") if path.is_file()}
    assert domain.prepare(loaded.settings, loaded.cache).parent == loaded.cache
    assert domain.load(loaded.settings, loaded.cache).hash == loaded.data.hash
    after = {path: path.stat().st_mtime_ns for path in loaded.cache.rglob("*") if path.is_file()}
    assert before == {path: after[path] for path in before}


@pytest.mark.parametrize("domain", [name for name in DOMAINS if name not in SEEDLESS])
def test_another_seed_gives_other_data(domain: str, tmp_path: Path) -> None:
    fields = DOMAINS[domain].DATA_SETS[tree(domain, {})["data"]["name"]].Settings.model_fields
    (seed,) = [name for name in ("data_seed", "split_seed") if name in fields]
    hashes = {DOMAINS[domain].load(settings_of(domain, {seed: value}), tmp_path).hash for value in (0, 1)}
    assert len(hashes) == 2


def test_a_check_says_where_the_data_lies_and_what_is_in_it(loaded: Loaded) -> None:
    lines = DOMAINS[loaded.domain].check(loaded.settings, loaded.cache)
    assert len(lines) >= 2 and all(line and "\n" not in line for line in lines)
    assert str(loaded.cache) in lines[0] and loaded.data.hash in lines[0]
    for part in ("train", "validation", "test"):
        assert any(part in line for line in lines)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_first_data_set_is_embedded(domain: str, tmp_path: Path) -> None:
    assert DOMAINS[domain].found(tmp_path)[tree(domain, {})["data"]["name"]] == "embedded"


def test_every_metric_is_finite_on_random_scores(loaded: Loaded) -> None:
    task, objective = loaded.task, OBJECTIVES[loaded.task.output]
    for split in loaded.parts.values():
        y = split.y[:8]
        shape = y.shape if task.output == "forecast" else (*y.shape, task.n_outputs)
        scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        assert objective.loss(scores, y, 0.0).isfinite()
        sums, count = objective.sums(scores, y)
        assert tuple(sums) == objective.metrics and count > 0
        assert all(value.dtype == torch.float64 and value.isfinite() for value in sums.values())


def test_augmentation_keeps_the_form_and_follows_its_generator(loaded: Loaded) -> None:
    augment = loaded.data.augment
    if augment is None:
        return
    x = loaded.inputs("train")
    first, again, other = (augment(x.clone(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == x.shape and first.dtype == x.dtype
    assert torch.equal(first, again) and not torch.equal(first, other)


def fitting(task: Task) -> str:
    return next(model for model in MODELS if misfit(model, task) is None)


def cut(split: Split, n: int) -> Split:
    return Split(split.x[:n], split.y[:n])


def test_a_model_trains_the_same_twice(loaded: Loaded) -> None:
    """One epoch through the learner on a few examples: finite figures of every part, and bit for bit the same again."""
    model = fitting(loaded.task)
    settings = {**tree(loaded.domain, {}), "data": loaded.settings.identity(), "model": MODELS[model].tiny().identity()}
    config = config_of({**settings, "train": {"epochs": 1, "batch_size": 8}})
    splits = {part: cut(getattr(loaded.data, part), 24) for part in ("train", "validation", "test")}
    data = replace(loaded.data, **splits, further={name: cut(split, 24) for name, split in loaded.data.further.items()})
    runs = []
    for _ in range(2):
        learner = Learner(config, [5], data, torch.device("cpu"))
        learner.epoch()
        (member,) = learner.members
        assert member.diverged is None
        runs.append((member.model.state_dict(), {**member.figures, **learner.test(member)}))
    (weights, figures), (weights_again, figures_again) = runs
    assert set(figures) == set(figure_names(OBJECTIVES[loaded.task.output].metrics, loaded.task.further))
    assert all(math.isfinite(value) for value in figures.values())
    assert figures == figures_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
