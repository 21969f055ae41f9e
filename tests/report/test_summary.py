"""What a summary says about a sweep: means over seeds, gaps in view, the best arm by validation, claims."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from cvkan.errors import UserError
from cvkan.report import SweepSummary, summarise


def report(build: Any, plan: Any, rows: Any, metric: str | None = None) -> SweepSummary:
    trials, curves = build.tables(plan, rows)
    return summarise(trials, curves, plan, metric)


def test_counts_of_the_sample(depth_vs_width: Any) -> None:
    summary = summarise(*depth_vs_width)
    assert summary.n_trials == 64
    assert summary.statuses == {"completed": 60, "diverged": 2, "out_of_memory": 1, "missing": 1}
    assert summary.n_done == 60
    assert summary.earlier_rows == 1
    assert [(failure.status, failure.seed) for failure in summary.failures] == [("out_of_memory", 2), ("diverged", 3), ("diverged", 5)]
    assert all(failure.log == f"logs/{failure.key}.log" for failure in summary.failures)
    assert summary.dropped[0].label == "n_layers=16 interaction=pointwise"
    seconds = 60 * 31.4 + sum(9.7 * place * 8 + 28 for place in range(8))
    assert summary.trial_hours == pytest.approx((seconds + 4 * 31.4 - (31.4 + 9.7 * 5 + 7)) / 3600)


def test_no_trial_has_run(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1], claims=[
        {"says": "x", "metric": "test_accuracy", "better": {"model.n_layers": 1}, "than": {"model.n_layers": 2}, "margin": 0.0}
    ])  # fmt: skip
    head = {"key": pa.string(), "seed": pa.int64(), "status": pa.string(), "reason": pa.string(), "seconds": pa.float64()}
    texts = {name: pa.string() for name in ("cvkan_version", "git_sha", "code_hash", "torch", "device", "host")}
    kinds = head | texts | {"git_dirty": pa.bool_(), "epochs": pa.int64()}
    # A ledger without rows has no columns for axes and metrics.
    empty = pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
    summary = summarise(empty, build.tables(plan, [])[1], plan, "test_loss")
    assert summary.statuses == {"missing": 4}
    assert summary.best is None
    assert summary.claims[0].difference.n == 0
    assert all(arm.figure.n == 0 and arm.incomplete for arm in summary.arms)


def test_an_axis_is_averaged_within_a_seed_before_seeds_are_compared(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2], "model.norm": ["a", "b"]}, [0, 1])
    rows = [
        build.row(plan, arm, seed, 0.5 + 0.2 * (arm["values"]["model.norm"] == "b") + 0.02 * seed)
        for arm in plan["arms"]
        for seed in [0, 1]
    ]
    layers = report(build, plan, rows).tables[0]
    assert layers.paths == ("model.n_layers",)
    for value in layers.values:
        assert value.figure.mean == pytest.approx(0.61)
        assert (value.figure.n, value.n_arms, value.n_trials) == (2, 2, 4)
        assert value.figure.half == pytest.approx(12.7062 * 0.01, rel=1e-4)  # t(.975, 1) = 12.7062, the two seeds differ by .02
        assert not value.incomplete and not value.unbalanced


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "timed_out", "failed", "lost", "interrupted"])
def test_a_trial_without_result_is_counted_and_not_averaged_even_if_its_row_holds_a_figure(build: Any, status: str) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1, 2])
    rows = [build.row(plan, arm, seed, 0.5) for arm in plan["arms"] for seed in [0, 1, 2]]
    rows[0] |= {"status": status, "test_accuracy": 0.9, "best_val_accuracy": 0.99}
    summary = report(build, plan, rows)
    arm, value = summary.arms[0], summary.tables[0].values[0]
    assert (arm.figure.mean, arm.figure.n, arm.n_trials, arm.validation) == (0.5, 2, 3, 0.5)
    assert arm.flags == value.flags == {status: 1}
    assert arm.incomplete and value.incomplete
    assert not summary.arms[1].incomplete and not summary.tables[0].values[1].incomplete
    assert summary.n_done == 5


@pytest.mark.parametrize("figure", [None, math.nan, math.inf])
def test_a_completed_trial_without_a_finite_figure_is_flagged(build: Any, figure: float | None) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1])
    rows = [build.row(plan, arm, seed, 0.5) for arm in plan["arms"] for seed in [0, 1]]
    rows[3]["test_accuracy"] = figure
    arm = report(build, plan, rows).arms[1]
    assert (arm.figure.n, arm.flags, arm.incomplete) == (1, {"no_figure": 1}, True)


def test_a_stopped_trial_has_a_figure_and_a_flag(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0])
    rows = [build.row(plan, arm, 0, 0.5, status="stopped") for arm in plan["arms"]]
    arm = report(build, plan, rows).arms[0]
    assert (arm.figure.n, arm.flags, arm.incomplete) == (1, {"stopped": 1}, False)


def test_the_best_arm_is_chosen_by_validation_and_not_by_test(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2, 4]}, [0, 1])
    validation, test = {1: 0.7, 2: 0.9, 4: 0.8}, {1: 0.99, 2: 0.5, 4: 0.6}
    rows = [
        build.row(plan, arm, seed, test[arm["values"]["model.n_layers"]], best_val_accuracy=validation[arm["values"]["model.n_layers"]])
        for arm in plan["arms"]
        for seed in [0, 1]
    ]
    best = report(build, plan, rows).best
    assert best is not None
    assert (best.arm.label, best.arm.figure.mean, best.n_arms) == ("n_layers=2", 0.5, 3)


def test_a_loss_is_better_when_lower(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0])
    rows = [build.row(plan, arm, 0, 0.5, best_val_loss=1.0 / arm["values"]["model.n_layers"]) for arm in plan["arms"]]
    best = report(build, plan, rows, "loss").best
    assert best is not None and best.arm.label == "n_layers=2"


def test_the_curve_of_the_best_arm_is_a_mean_over_its_seeds(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1]}, [0, 1])
    rows = [build.row(plan, plan["arms"][0], seed, 0.5) for seed in [0, 1]]
    points = [
        {"key": row["key"], "epoch": epoch, "step": epoch, "split": split, "metric": metric, "value": epoch / 10 + row["seed"] / 100}
        for row in rows
        for epoch in range(1, 4 - row["seed"])
        for split, metric in [("val", "accuracy"), ("val", "loss"), ("train", "loss")]
    ]
    trials, curves = build.tables(plan, rows, points)
    best = summarise(trials, curves, plan).best
    assert best is not None
    assert [epoch for epoch, _ in best.curve] == [1, 2]  # one seed alone reached epoch 3
    assert [value for _, value in best.curve] == pytest.approx([0.105, 0.205])


def test_claims_pair_seeds_and_leave_out_unpaired_ones(build: Any) -> None:
    claim = {"says": "2 beats 1", "metric": "test_accuracy", "better": {"model.n_layers": 2}, "than": {"model.n_layers": 1}, "margin": 0.01}
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1, 2, 3], claims=[claim])
    test = {(1, 0): 0.5, (1, 1): 0.6, (1, 2): 0.7, (2, 0): 0.52, (2, 1): 0.63, (2, 2): 0.71, (2, 3): 0.99}
    arms = {arm["values"]["model.n_layers"]: arm for arm in plan["arms"]}
    found = report(build, plan, [build.row(plan, arms[layers], seed, value) for (layers, seed), value in test.items()]).claims[0]
    assert found.difference.mean == pytest.approx(0.02)
    assert (found.difference.n, found.n_seeds) == (3, 4)
    assert found.difference.half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)  # t(.975, 2), s = .01
    assert found.better.figure.mean - found.than.figure.mean == pytest.approx(found.difference.mean)
    assert found.incomplete


def test_claims_compare_only_where_both_sides_have_all_their_arms(build: Any) -> None:
    claim = {"says": "b beats a", "metric": "test_accuracy", "better": {"model.norm": "b"}, "than": {"model.norm": "a"}, "margin": 0.0}
    plan = build.plan({"model.n_layers": [1, 2], "model.norm": ["a", "b"]}, [0, 1], claims=[claim])
    rows = [build.row(plan, arm, seed, 0.4 if arm["values"]["model.n_layers"] == 1 else 0.8) for arm in plan["arms"] for seed in [0, 1]]
    assert report(build, plan, rows).claims[0].difference.mean == 0
    # norm=a loses the low arm in seed 0: averaged alone it would seem to be ahead by .2.
    rows[0] |= {"status": "diverged"}
    found = report(build, plan, rows).claims[0]
    assert (found.difference.mean, found.difference.n, found.incomplete) == (0, 2, True)
    assert (found.better.n_arms, found.than.n_arms) == (2, 2)


def test_a_claim_about_arms_that_were_dropped_has_no_figures(build: Any) -> None:
    claim = {"says": "x", "metric": "test_accuracy", "better": {"model.n_layers": 4}, "than": {"model.n_layers": 1}, "margin": 0.0}
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1], claims=[claim])
    found = report(build, plan, [build.row(plan, arm, seed, 0.5) for arm in plan["arms"] for seed in [0, 1]]).claims[0]
    assert (found.better.n_arms, found.difference.n, found.incomplete) == (0, 0, True)


def test_axes_that_move_together_share_a_table(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2], "optimizer.lr": [0.1, 0.2], "model.norm": ["a", "b"]}, [0])
    plan["arms"] = [arm for arm in plan["arms"] if (arm["values"]["model.n_layers"] == 1) == (arm["values"]["optimizer.lr"] == 0.1)]
    plan["trials"] = [trial for trial in plan["trials"] if trial["arm"] in {arm["arm"] for arm in plan["arms"]}]
    tables = report(build, plan, [build.row(plan, arm, 0, 0.5) for arm in plan["arms"]]).tables
    assert [table.paths for table in tables] == [("model.n_layers", "optimizer.lr"), ("model.norm",)]
    assert [value.values for value in tables[0].values] == [(1, 0.1), (2, 0.2)]
    assert not any(value.unbalanced for table in tables for value in table.values)


def test_a_value_beside_other_arms_than_its_axis_is_marked(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2], "model.norm": ["a", "b"]}, [0])
    plan["arms"] = plan["arms"][:3]
    plan["trials"] = plan["trials"][:3]
    layers, norms = report(build, plan, [build.row(plan, arm, 0, 0.5) for arm in plan["arms"]]).tables
    assert [(value.n_arms, value.unbalanced) for value in layers.values] == [(2, False), (1, True)]
    assert [(value.n_arms, value.unbalanced) for value in norms.values] == [(2, False), (1, True)]


def test_true_and_one_are_two_values_and_null_is_one(build: Any) -> None:
    plan = build.plan({"model.shared": [True, 1, None]}, [0])
    rows = [build.row(plan, arm, 0, 0.5) | {"model.shared": str(arm["values"]["model.shared"])} for arm in plan["arms"]]
    values = report(build, plan, rows).tables[0].values
    assert [(value.values[0], value.figure.n) for value in values] == [(True, 1), (1, 1), (None, 1)]


def test_values_stand_in_the_files_order(build: Any) -> None:
    plan = build.plan({"model.n_layers": [8, 1, 4]}, [0])
    table = report(build, plan, [build.row(plan, arm, 0, 0.5) for arm in plan["arms"]]).tables[0]
    assert [value.values[0] for value in table.values] == [8, 1, 4]


def test_a_sweep_without_axes(build: Any) -> None:
    plan = build.plan({}, [0, 1])
    summary = report(build, plan, [build.row(plan, plan["arms"][0], seed, 0.5) for seed in [0, 1]])
    assert summary.tables == ()
    assert summary.best is not None and summary.best.arm.figure.mean == 0.5


@pytest.mark.parametrize(
    ("metric", "hint"), [("test_acuracy", "test_accuracy"), ("val_loss", "best_val_loss"), ("last_train_los", "last_train_loss")]
)
def test_an_unknown_metric_names_the_nearest(build: Any, metric: str, hint: str) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0])
    with pytest.raises(UserError, match=rf"--metric: '{metric}' .* did you mean {hint}\?"):
        report(build, plan, [build.row(plan, arm, 0, 0.5) for arm in plan["arms"]], metric)


def test_epochs_and_seconds_are_medians_over_the_trials_with_a_figure(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1, 2, 3])
    rows = [
        build.row(plan, arm, seed, 0.5, epochs=[10, 20, 12, 90][seed], seconds=[1.0, 9.0, 3.0, 90.0][seed])
        for arm in plan["arms"]
        for seed in [0, 1, 2, 3]
    ]
    rows[3]["status"] = "timed_out"
    first, second = report(build, plan, rows).arms
    assert (first.epochs, first.seconds) == (12, 3.0)
    assert (second.epochs, second.seconds) == (16, 6.0)


def test_provenance_counts_versions_and_marks_changed_files(depth_vs_width: Any) -> None:
    seen = summarise(*depth_vs_width).provenance
    assert seen["device"] == {"NVIDIA H200": 63}
    assert seen["git_sha"] == {"0123456789abcdef0123456789abcdef01234567": 55, "0123456789abcdef0123456789abcdef01234567+dirty": 8}
