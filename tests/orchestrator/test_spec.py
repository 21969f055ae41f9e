"""Settings of trials: what identifies them, what is recorded of them, and that their descriptions are true."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from cvkan.domains import DOMAINS
from cvkan.errors import UserError
from cvkan.models import MODELS
from cvkan.optimizers import OPTIMIZERS
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.spec import (
    Claim,
    Limits,
    LossSettings,
    Match,
    Resources,
    Sweep,
    TrainSettings,
    TrialConfig,
    config_from,
    config_of,
    duration,
)
from cvkan.settings import Settings
from fitting import choice_for

ALL_SETTINGS: list[type[Settings]] = [
    *(entry.Settings for domain in DOMAINS.values() for entry in domain.DATA_SETS.values()),
    *(model.Settings for model in MODELS.values()),
    *OPTIMIZERS.values(),
    *(TrainSettings, LossSettings, Match, Claim, Limits, Resources, Sweep),
]


def config(text: str = "{}") -> TrialConfig:
    return config_from(parse(text, "x.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        config(text)
    return str(caught.value).splitlines()


def test_a_trial_without_settings_has_defaults() -> None:
    found = config()
    assert found.domain == "image"
    assert [getattr(found, part).identity()["name"] for part in ("data", "model", "optimizer")] == ["digits", "cv_kan", "adamw"]
    assert found.task().shape == (1, 8, 8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_recorded_settings_read_back_equal(model: str, optimizer: str) -> None:
    tree = {**choice_for(model), "model": {"name": model}, "optimizer": {"name": optimizer}, "train": {"patience": 3}}
    found = config(json.dumps(tree))
    assert config_of(json.loads(json.dumps(found.plain()))) == found


def test_the_place_of_data_is_recorded_and_identifies_nothing() -> None:
    here, there = config("data: {root: here}"), config("data: {root: there, download: true}")
    assert here.identity() == there.identity()
    assert here.plain()["data"]["root"] == "here"
    assert "root" not in here.identity()["data"]


def test_a_whole_number_is_the_same_as_its_decimal() -> None:
    whole, decimal = config("optimizer: {lr: 1, weight_decay: 0}"), config("optimizer: {lr: 1.0, weight_decay: 0.0}")
    assert json.dumps(whole.identity()) == json.dumps(decimal.identity())


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=lambda settings: settings.__name__)
def test_synonyms_stand_for_settings(settings: type[Settings]) -> None:
    assert set(settings.synonyms.values()) <= set(settings.model_fields)
    assert not set(settings.synonyms) & set(settings.model_fields)
    assert settings.outside_key <= set(settings.model_fields)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90), ("30m", 1800), ("8h", 28800), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), (15, 15), (0.5, 0.5)],
)
def test_durations(value: object, seconds: float) -> None:
    assert duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "soon", "3", "3 m", "-3m", "m", "1m2", 0, -1, True, None, [1], float("nan"), float("inf"), "0s", "1e3s"]
)
def test_no_durations(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="90s, 30m, 8h or 1h30m"):
        duration(value)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("auto", True),
        ("0", True),
        ("0.25", True),
        ("1", True),
        ("1.5", False),
        ("-1", False),
        ("true", False),
        (".nan", False),
        ("null", False),
    ],
)
def test_gpus(value: str, good: bool) -> None:
    asked: dict[str, Any] = {"gpus": parse(value, "x").plain()}
    if good:
        assert Resources.model_validate(asked).gpus == asked["gpus"]
    else:
        with pytest.raises(ValueError, match="expected a number from 0 to 1, or auto"):
            Resources.model_validate(asked)


def test_mistakes_of_all_parts_come_together() -> None:
    text = "data: {nmae: digits}\nmodel: {name: mpl}\noptimizer: 3\ntrain: {epochs: x}\nloss: {diversity: -1}\nlos: {}\n"
    assert mistakes(text) == [
        "x.yaml:1: data.nmae: unknown setting; did you mean name?",
        "x.yaml:2: model.name: 'mpl' is unknown; did you mean mlp?",
        "x.yaml:3: optimizer: expected settings such as {name: adamw}; got 3",
        'x.yaml:4: train.epochs: expected a whole number; got "x"',
        "x.yaml:5: loss.diversity: expected at least 0; got -1",
        "x.yaml:6: los: unknown setting; did you mean loss?",
    ]


def test_a_misfit_of_default_settings_is_told_at_the_part() -> None:
    assert mistakes("train: {}\nmodel:\n  d_complex: 3\n  window: 5\n  aggregation: local_window\n")[0].startswith(
        "x.yaml:3: model.d_complex: 3 "
    )
    assert mistakes("train: {}\nmodel:\n  patch_size: 8\n") == [
        "x.yaml:3: model.patch_size: 8 does not work with model.embedding conv, which has patches of 2 or 4"
    ]


@pytest.mark.parametrize("text", ["[]", "3", "null", "model"])
def test_a_trial_that_is_no_mapping(text: str) -> None:
    assert mistakes(text)[0].startswith("x.yaml:1: trial: expected a mapping")


def test_long_values_are_shown_in_short() -> None:
    (line,) = mistakes(f"train: {{epochs: {'y' * 1000}}}")
    assert len(line) < 130
    assert line.endswith("...")
