"""Optimizers learn and can be saved; learning rates go where they should."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from cvkan.optimizers import OPTIMIZERS, SCHEDULES, SGD, AdamW

STEPS = 200


def loss_of(weights: Tensor) -> Tensor:
    """A quadratic with its minimum, 0, at (1, -2, 3), and curvatures 1, 4, 9."""
    centre, curvature = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0])
    return (curvature * (weights - centre).square()).sum()


def train(optimizer: torch.optim.Optimizer, weights: Tensor, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(weights)
        loss.backward()
        optimizer.step()
    return float(loss_of(weights.detach()))


def fresh() -> Tensor:
    return torch.zeros(3, requires_grad=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_down_a_quadratic(name: str) -> None:
    weights = fresh()
    optimizer = OPTIMIZERS[name].model_validate({"lr": 0.03, "weight_decay": 0.0}).build([weights])
    start = float(loss_of(weights.detach()))
    end = train(optimizer, weights, STEPS)
    assert end < 0.1 * start


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_makes_weights_smaller(name: str) -> None:
    norms = []
    for decay in (0.0, 0.3):
        weights = torch.full((3,), 5.0, requires_grad=True)
        optimizer = OPTIMIZERS[name].model_validate({"lr": 0.01, "weight_decay": decay}).build([weights])
        for _ in range(20):
            optimizer.zero_grad()
            (weights.sum() * 0.0).backward()
            optimizer.step()
        norms.append(float(weights.detach().norm()))
    assert norms[0] == pytest.approx(75**0.5)
    assert norms[1] < norms[0] - 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_from_saved_tensors_and_json_as_if_never_stopped(name: str) -> None:
    settings = OPTIMIZERS[name].model_validate({"lr": 0.03})
    whole, halves = fresh(), fresh()
    train(settings.build([whole]), whole, 20)

    optimizer = settings.build([halves])
    train(optimizer, halves, 10)
    state = optimizer.state_dict()
    tensors = {f"{i}.{key}": value for i, of in state["state"].items() for key, value in of.items() if isinstance(value, Tensor)}
    rest = {i: {key: value for key, value in of.items() if not isinstance(value, Tensor)} for i, of in state["state"].items()}
    text = json.dumps({"state": rest, "param_groups": state["param_groups"]})  # raises for what is neither tensor nor JSON
    content = save({"weights": halves.detach(), **tensors})

    read, about = load(content), json.loads(text)
    resumed = read.pop("weights").requires_grad_()
    loaded: dict[int, dict[str, object]] = {int(i): dict(of) for i, of in about["state"].items()}
    for path, tensor in read.items():
        number, _, key = path.partition(".")
        loaded[int(number)][key] = tensor
    second = settings.build([resumed])
    second.load_state_dict({"state": loaded, "param_groups": about["param_groups"]})
    train(second, resumed, 10)
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_reach_the_optimizer(name: str) -> None:
    settings = OPTIMIZERS[name].model_validate({"lr": 0.123, "weight_decay": 0.045})
    (group,) = settings.build([fresh()]).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.123, 0.045)
    for key in ("betas", "eps", "momentum", "nesterov", "alpha"):
        if key in type(settings).model_fields:
            assert group[key] == getattr(settings, key)


def rates(schedule: str, warmup: float = 0.0, steps: int = 100) -> list[float]:
    settings = AdamW(lr=2.0, schedule=schedule, warmup=warmup)
    return [settings.learning_rate(step, steps) for step in range(steps)]


def test_a_constant_rate() -> None:
    assert set(rates("constant")) == {2.0}


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_falling_rate_starts_at_its_height_and_ends_near_0(schedule: str) -> None:
    found = rates(schedule)
    assert found[0] == 2.0
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 0.03
    assert found[50] == pytest.approx(1.0)


def test_one_cycle_rises_for_three_tenths_and_falls_below_its_start() -> None:
    found = rates("one_cycle")
    assert found[0] == pytest.approx(2.0 / 25)
    assert max(found) == found[30] == pytest.approx(2.0)
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)
    assert found[-1] < found[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_stay_within_their_height(schedule: str) -> None:
    assert all(0 <= SCHEDULES[schedule](step / 1000) <= 1 for step in range(1001))


def test_warm_up_is_a_straight_line_to_the_height_where_the_schedule_starts() -> None:
    found = rates("cosine", warmup=0.1)
    assert found[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert found[10] == 2.0
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] < 0.03


@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 0.99), st.integers(1, 50))
def test_rates_are_never_negative_and_never_above_the_height(schedule: str, warmup: float, steps: int) -> None:
    assert all(0 <= rate <= 2.0 for rate in rates(schedule, warmup, steps))


def test_look_ahead_momentum_needs_momentum() -> None:
    assert SGD(nesterov=True).momentum > 0
    with pytest.raises(ValidationError, match="needs momentum above 0"):
        SGD(nesterov=True, momentum=0.0)
