"""What the models must learn on small budgets, in ranges. Recall, signal_noise and grokking are tested beside their domains and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cvkan.domains import DOMAINS
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.spec import config_from


def figure(settings: dict[str, Any], cache: Path) -> float:
    """The headline figure of the test part after a whole trial of seed 0."""
    config = config_from(parse(json.dumps(settings), "x.yaml"))
    learner = Learner(config, [0], DOMAINS[config.domain].load(config.data, cache), torch.device("cpu"))
    (member,) = learner.members
    while not member.done:
        learner.advance(member)
    return learner.test(member)[f"test_{learner.task.metric}"]


COSINE = {"name": "adamw", "lr": 5e-3, "schedule": "cosine", "warmup": 0.05}


def test_cv_kan_tells_tones_apart(cache_dir: Path) -> None:
    """Ten classes, of which pairs have equal mean spectra."""
    assert figure({"domain": "audio", "train": {"eval_every": 5}}, cache_dir) > 0.9


@pytest.mark.parametrize(
    ("model", "least", "most"),
    [
        ({"name": "lstm", "n_layers": 1, "d_hidden": 64}, 0.9, 1.0),
        ({"name": "mlp"}, 0.5, 0.8),
    ],
    ids=["lstm", "mlp"],
)
def test_grammar_needs_order(model: dict[str, Any], least: float, most: float, cache_dir: Path) -> None:
    """The sentiment of a sentence depends on negation and contrast, so a model without order stays behind."""
    train = {"epochs": 6, "batch_size": 32, "eval_every": 3}
    assert least < figure({"domain": "text", "model": model, "optimizer": COSINE, "train": train}, cache_dir) <= most


def test_a_linear_map_forecasts_the_seasons(cache_dir: Path) -> None:
    """The series has deviation 1 in its training part: a forecast of its mean has an mse near 1 or above."""
    settings = {
        "domain": "timeseries",
        "data": {"stride": 4},
        "model": {"name": "dlinear"},
        "optimizer": COSINE,
        "train": {"epochs": 5, "batch_size": 32},
    }
    assert figure(settings, cache_dir) < 0.6


def test_text_becomes_predictable(cache_dir: Path) -> None:
    """Bytes of English text have well above 4 bits each without any context."""
    data = {"name": "pydoc", "length": 128, "n_train": 400, "n_validation": 40, "n_test": 40}
    model = {"name": "tpi", "d_model": 32, "n_layers": 2, "shift": True}
    settings = {
        "domain": "charlm",
        "data": data,
        "model": model,
        "optimizer": COSINE,
        "train": {"epochs": 3, "batch_size": 8, "eval_every": 3},
    }
    assert 1.0 < figure(settings, cache_dir) < 3.9
