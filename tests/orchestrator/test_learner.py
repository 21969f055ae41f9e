"""What a user relies on of training: it learns, it is the same bit for bit, and no precision turns it into NaN."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cvkan.domains import DOMAINS
from cvkan.domains.task import Data
from cvkan.models import MODELS
from cvkan.optimizers import OPTIMIZERS
from cvkan.orchestrator.checkpoint import Checkpoint, from_bytes
from cvkan.orchestrator.learner import Learner, Point
from cvkan.orchestrator.spec import TrialConfig, config_of

CPU = torch.device("cpu")
SMALL = {"name": "cv_kan", "d_complex": 16, "n_layers": 2, "kan_hidden": 8}


def config(model: dict | None = None, optimizer: dict | None = None, train: dict | None = None, loss: dict | None = None) -> TrialConfig:
    return config_of(
        {
            "domain": "image",
            "data": {"name": "digits", "n_train": 256},
            "model": model or SMALL,
            "optimizer": {"name": "adamw", "lr": 0.01} | (optimizer or {}),
            "train": {"epochs": 3, "batch_size": 64} | (train or {}),
            "loss": loss or {},
        }
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return DOMAINS["image"].load(config().data, tmp_path_factory.mktemp("cache"))


def finish(learner: Learner) -> list[list[Point]]:
    """Trains to the end; each member's curve."""
    curves: list[list[Point]] = [[] for _ in learner.members]
    while not learner.done:
        for curve, points in zip(curves, learner.epoch(), strict=True):
            curve += points
    return curves


def weights(learner: Learner, member: int = 0) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.members[member].model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns_digits(digits: Data) -> None:
    learner = Learner(config(train={"epochs": 15}), [0], digits, CPU)
    finish(learner)
    figures = learner.members[0].figures | learner.test(learner.members[0])
    assert figures["best_val_accuracy"] > 0.7
    assert figures["test_accuracy"] > 0.7
    assert figures["last_train_loss"] < 1.0


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_two_runs_are_the_same_bit_for_bit(digits: Data, dropout: float) -> None:
    settings = config(SMALL | {"dropout": dropout})
    first, second = Learner(settings, [7], digits, CPU), Learner(settings, [7], digits, CPU)
    assert finish(first) == finish(second)
    assert same(weights(first), weights(second))


def test_seeds_differ(digits: Data) -> None:
    first, second = Learner(config(), [0], digits, CPU), Learner(config(), [1], digits, CPU)
    assert finish(first) != finish(second)


@pytest.mark.parametrize("model", [SMALL | {"dropout": 0.2}, {"name": "resnet"}])
def test_a_pack_is_its_trials_alone(digits: Data, model: dict) -> None:
    """Members of a pack neither share randomness nor wait for one another."""
    model = model if model["name"] == "cv_kan" else MODELS["resnet"].tiny().identity()
    pack = Learner(config(model), [3, 4], digits, CPU)
    curves = finish(pack)
    for place, seed in enumerate((3, 4)):
        alone = Learner(config(model), [seed], digits, CPU)
        assert finish(alone)[0] == curves[place]
        assert same(weights(alone), weights(pack, place))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resuming_changes_nothing(digits: Data, optimizer: str, precision: str) -> None:
    """Killed after an epoch and gone on from the checkpoint's bytes: the same curve, weights and best weights."""
    settings = config(
        SMALL | {"dropout": 0.1}, {"name": optimizer, "lr": 0.003, "schedule": "one_cycle"}, {"precision": precision, "epochs": 4}
    )
    whole = Learner(settings, [5], digits, CPU)
    curve = finish(whole)[0]
    killed = Learner(settings, [5], digits, CPU)
    points = killed.epoch()[0] + killed.epoch()[0]
    content = killed.last(killed.members[0], {"key": "k"}).to_bytes()
    torch.manual_seed(99)
    resumed = Learner(settings, [5], digits, CPU)
    resumed.restore(resumed.members[0], from_bytes(content))
    assert points + finish(resumed)[0] == curve
    assert same(weights(resumed), weights(whole))
    assert same(resumed.members[0].best, whole.members[0].best)
    assert resumed.test(resumed.members[0]) == whole.test(whole.members[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("update", ["gated_tanh", "residual_log"])
@pytest.mark.parametrize("norm", ["none", "layer", "batch", "logmag"])
def test_no_precision_turns_nan(digits: Data, precision: str, update: str, norm: str) -> None:
    """The logs' mixed precision gave NaN at once; here the curve stays finite and the loss falls."""
    settings = config(SMALL | {"update": update, "norm": norm}, train={"precision": precision, "epochs": 6})
    learner = Learner(settings, [0], digits, CPU)
    curve = finish(learner)[0]
    losses = [point.value for point in curve if point.split == "train"]
    assert learner.members[0].diverged is None
    assert all(parameter.isfinite().all() for parameter in learner.members[0].model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in learner.members[0].model.parameters())
    assert losses[-1] < losses[0]


def test_low_precision_is_used(digits: Data) -> None:
    """bf16 must change the arithmetic, or the test above proves nothing."""
    full, low = Learner(config(), [0], digits, CPU), Learner(config(train={"precision": "bf16"}), [0], digits, CPU)
    assert finish(full) != finish(low)


def test_a_non_finite_loss_is_diverged_and_leaves_the_others_alone(digits: Data) -> None:
    mlp = MODELS["mlp"].tiny().identity()
    settings = config(mlp, {"name": "sgd", "lr": 1e30, "schedule": "constant"}, {"grad_clip": None})
    learner = Learner(settings, [0, 1], digits, CPU)
    finish(learner)
    for member in learner.members:
        assert member.diverged is not None
        assert "not finite" in member.diverged
        assert member.epoch == 1
        assert "test_accuracy" not in member.figures


def test_patience_ends_a_trial_early_and_the_best_weights_are_tested(digits: Data) -> None:
    settings = config(optimizer={"name": "sgd", "lr": 1e-9}, train={"patience": 2, "epochs": 50})
    learner = Learner(settings, [0], digits, CPU)
    finish(learner)
    member = learner.members[0]
    assert member.epoch < 10
    assert member.epoch == member.best_epoch + 2


def test_the_test_figures_are_those_of_the_best_weights(digits: Data) -> None:
    learner = Learner(config(train={"epochs": 4}), [0], digits, CPU)
    finish(learner)
    member = learner.members[0]
    before = weights(learner)
    tested = learner.test(member)
    assert same(before, weights(learner))
    member.model.load_state_dict(member.best)
    assert learner.test(member) == tested


def test_zero_epochs_evaluates_the_initial_weights(digits: Data) -> None:
    learner = Learner(config(train={"epochs": 0}), [0], digits, CPU)
    curve = finish(learner)[0]
    assert {(point.epoch, point.step, point.split) for point in curve} == {(0, 0, "val")}
    assert learner.test(learner.members[0])["test_loss"] > 0


def test_gradient_clipping_bounds_the_step(digits: Data) -> None:
    """With plain SGD of rate 1 a step moves the weights by the clipped gradient's norm at most."""
    settings = config(
        optimizer={"name": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant"},
        train={"grad_clip": 1e-3, "epochs": 1, "batch_size": 256},
    )
    learner = Learner(settings, [0], digits, CPU)
    before = torch.cat([parameter.detach().flatten() for parameter in learner.members[0].model.parameters()])
    learner.epoch()
    after = torch.cat([parameter.detach().flatten() for parameter in learner.members[0].model.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["diversity", "phase_anchor"])
def test_regularisers_change_training_but_not_the_reported_loss(digits: Data, name: str) -> None:
    plain, weighted = Learner(config(), [0], digits, CPU), Learner(config(loss={name: 0.5}), [0], digits, CPU)
    first, second = plain.epoch()[0], weighted.epoch()[0]
    assert first != second
    assert second[0].value < first[0].value + 0.4


def test_an_interruption_leaves_the_epoch(digits: Data) -> None:
    learner = Learner(config(), [0], digits, CPU)

    class Stop(Exception):
        pass

    steps = 0

    def tick() -> None:
        nonlocal steps
        steps += 1
        if steps > 6:
            raise Stop

    learner.epoch(tick)
    with pytest.raises(Stop):
        learner.epoch(tick)
    assert learner.members[0].epoch == 1


def test_a_checkpoint_runs_no_code_and_a_damaged_one_is_refused(digits: Data, tmp_path: Path) -> None:
    learner = Learner(config(), [0], digits, CPU)
    learner.epoch()
    content = learner.best(learner.members[0], {"key": "k"}).to_bytes()
    checkpoint = from_bytes(content)
    assert checkpoint.meta["key"] == "k"
    assert same(checkpoint.part("model"), learner.members[0].best)
    for broken in (b"", content[:100], content[: len(content) // 2], b"\x80\x04cos\nsystem\n", content[:8] + b"{" * 50 + content[58:]):
        with pytest.raises(ValueError, match="not a cvkan checkpoint"):
            from_bytes(broken)


def test_a_newer_checkpoint_is_refused() -> None:
    content = Checkpoint({"model/w": torch.zeros(2)}, {"version": 99}).to_bytes()
    with pytest.raises(ValueError, match="version 99"):
        from_bytes(content)


def test_points_are_plain_values(digits: Data) -> None:
    points = Learner(config(), [0], digits, CPU).epoch()[0]
    assert all({type(value) for value in asdict(point).values()} <= {int, str, float} for point in points)


def test_the_step_at_which_a_figure_is_reached_is_noted_and_can_end_a_trial(digits: Data) -> None:
    def trained(**train: float) -> Learner:
        learner = Learner(config(train={"epochs": 4, "eval_every": 2, **train}), [0], digits, CPU)
        finish(learner)
        return learner

    noted, stopped, never = trained(reach=0.0), trained(reach=0.0, stop_at_reach=True), trained(reach=1.5, stop_at_reach=True)
    assert noted.members[0].figures["reached_step"] == 2 * noted.steps_per_epoch
    assert [learner.members[0].epoch for learner in (noted, stopped, never)] == [4, 2, 4]
    assert "reached_step" not in never.members[0].figures


def test_evaluations_between_epochs_change_nothing_and_may_cover_the_training_part(digits: Data) -> None:
    every, sparse = (
        Learner(config(train={"epochs": 3, **train}), [0], digits, CPU) for train in ({}, {"eval_every": 2, "eval_train": True})
    )
    (often,), (seldom,) = finish(every), finish(sparse)
    assert same(weights(every), weights(sparse))
    assert sorted({point.epoch for point in seldom}) == [2, 3]
    assert {point.split for point in seldom} == {"train", "fit", "val"}
    at_end = [point for point in often if point.epoch == 3 and point.split == "val"]
    assert at_end == [point for point in seldom if point.epoch == 3 and point.split == "val"]
