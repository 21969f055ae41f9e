"""What a sweep found, as data: from the ledger's tables and the plan to a SweepSummary. Pure; the renderers read it.

A figure is a trial's metric. Completed and stopped trials have one; others have none, whatever their row holds. They are
counted in `flags` beside every mean that they are missing from. The unit of every interval is a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cvkan.orchestrator.ledger import Ledger
from cvkan.orchestrator.stats import Floats, Interval, mean_interval, paired_difference
from cvkan.report.grid import FLAGS, WITH_FIGURE, Grid, Ints, make_grid, means, medians, present
from cvkan.report.metric import Metric, choose_metric

Scalar = str | int | float | bool | None

FAILURES = ("diverged", "out_of_memory", "timed_out", "failed", "lost")
PROVENANCE = ("cvkan_version", "git_sha", "code_hash", "torch", "device", "host")


@dataclass(frozen=True)
class Failure:
    """A trial that ended without a result."""

    key: str
    arm: str
    seed: int
    status: str
    reason: str
    log: str
    """Relative to the sweep's folder."""


@dataclass(frozen=True)
class Dropped:
    """An arm that was never trained, since it could not be compared."""

    label: str
    reason: str


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis. A seed's figure is the mean over the other axes of what that seed has."""

    values: tuple[Scalar, ...]
    """One for each tied axis."""
    figure: Interval
    n_arms: int
    n_trials: int
    flags: dict[str, int]
    """Trials by status, without the completed ones; `missing` and `no_figure` among them."""
    incomplete: bool
    """Some planned trial has no figure, so that seeds are not averaged over the same arms."""
    unbalanced: bool
    """Other values of this axis stand beside other arms (excluded or dropped ones), so means are not like for like."""


@dataclass(frozen=True)
class Axis:
    """The values of an axis, or of axes that move together, in the file's order."""

    paths: tuple[str, ...]
    values: tuple[AxisValue, ...]


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: str
    label: str
    values: dict[str, Scalar]
    matched: tuple[str, int] | None
    """The width that was solved: its path and value."""
    n_params: int
    epochs: float | None
    """Median over the trials with a figure, as is `seconds`."""
    seconds: float | None
    validation: float | None
    """Mean of the metric's best validation figure."""
    figure: Interval
    n_trials: int
    flags: dict[str, int]
    incomplete: bool


@dataclass(frozen=True)
class Best:
    """The arm with the best mean validation figure. The test figures have no part in the choice."""

    arm: ArmSummary
    n_arms: int
    """Arms that it was chosen from: those with a validation figure."""
    curve: tuple[tuple[int, float], ...]
    """(epoch, mean validation metric) over its trials, at the epochs that all of them reached."""


@dataclass(frozen=True)
class ClaimSide:
    """One side of a claim, over the seeds that both sides have."""

    values: dict[str, Scalar]
    n_arms: int
    figure: Interval


@dataclass(frozen=True)
class ClaimSummary:
    """A claim's two means and their paired difference, `better` - `than`."""

    says: str
    metric: Metric
    margin: float
    better: ClaimSide
    than: ClaimSide
    difference: Interval
    n_seeds: int
    """Seeds that the plan has."""
    incomplete: bool
    """A planned trial of either side has no figure, or the sides do not stand beside the same other settings."""


@dataclass(frozen=True)
class SweepSummary:
    """A sweep's plan against what its ledger holds."""

    name: str
    profile: str | None
    question: str
    file: str
    command: str
    metric: Metric
    match: dict[str, Any] | None
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    n_trials: int
    """Trials in the plan."""
    statuses: dict[str, int]
    """Planned trials by status; `missing` counts those without a row. Only what occurs."""
    earlier_rows: int
    """Rows of earlier settings, which are not part of anything here."""
    failures: tuple[Failure, ...]
    dropped: tuple[Dropped, ...]
    claims: tuple[ClaimSummary, ...]
    best: Best | None
    tables: tuple[Axis, ...]
    """One for each axis with two or more values."""
    arms: tuple[ArmSummary, ...]
    """In the plan's order."""
    trial_hours: float
    """Sum of the trials' own times."""
    provenance: dict[str, dict[str, int]]
    """Trials by version, device and host; a git_sha ends with +dirty where files were changed."""

    @property
    def n_done(self) -> int:
        """Trials that have their result."""
        return sum(self.statuses.get(status, 0) for status in WITH_FIGURE)


def summarise(trials: pa.Table, curves: pa.Table, plan: Mapping[str, Any], metric: str | None = None) -> SweepSummary:
    """What the ledger holds of a plan's trials.

    Args:
        trials, curves: the ledger's tables; a row is matched to the plan by its key, and a key stands once.
        plan: the sweep's plan.json.
        metric: a column such as test_loss, or a name such as loss (its test figure); the plan's headline if None.

    Raises:
        UserError: `metric`, or a claim's, is none of this sweep; names the nearest that is.
    """
    chosen = choose_metric(metric, trials.column_names, plan, "--metric")
    seeds = tuple(dict.fromkeys(trial["seed"] for trial in plan["trials"]))
    grid, found = make_grid(trials, plan, seeds)
    arms = _arms(plan, grid, chosen)
    return SweepSummary(
        name=plan["name"],
        profile=plan["profile"],
        question=plan["question"],
        file=plan["file"],
        command=plan["command"],
        metric=chosen,
        match=plan["match"],
        axes=tuple(plan["axes"]),
        seeds=seeds,
        n_trials=len(plan["trials"]),
        statuses=_nonzero(np.bincount(grid.status, minlength=len(FLAGS))),
        earlier_rows=trials.num_rows - found.num_rows,
        failures=_failures(plan, grid),
        dropped=tuple(Dropped(arm["label"], arm["reason"]) for arm in plan["dropped"]),
        claims=tuple(_claim(claim, trials, plan, grid) for claim in plan["claims"]),
        best=_best(arms, chosen, curves, plan),
        tables=_tables(plan, grid, chosen),
        arms=arms,
        trial_hours=float(pc.sum(found["seconds"]).as_py() or 0.0) / 3600,
        provenance=_provenance(found),
    )


def _nonzero(counts: Ints) -> dict[str, int]:
    return {flag: int(count) for flag, count in zip(FLAGS, counts, strict=True) if count}


def _flags(counts: Ints) -> dict[str, int]:
    return {flag: count for flag, count in _nonzero(counts).items() if flag != "completed"}


def _failures(plan: Mapping[str, Any], grid: Grid) -> tuple[Failure, ...]:
    labels = [arm["label"] for arm in plan["arms"]]
    places = np.flatnonzero(np.isin(grid.status, [FLAGS.index(status) for status in FAILURES]))
    rows = grid.rows.select(["key", "seed", "status", "reason"]).take(pa.array(places, pa.int64())).to_pylist()
    files = Ledger(Path())
    return tuple(
        Failure(row["key"], labels[grid.arm[place]], row["seed"], row["status"], row["reason"] or "", files.log_path(row["key"]).as_posix())
        for place, row in zip(places, rows, strict=True)
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _arms(plan: Mapping[str, Any], grid: Grid, metric: Metric) -> tuple[ArmSummary, ...]:
    figures = grid.figures(metric.column)
    counts = grid.flags(figures)
    validation = means(grid.figures(metric.selection), 1)
    epochs, seconds = medians(grid.figures("epochs")), medians(grid.figures("seconds"))
    planned = grid.planned.sum(1)
    arms = []
    for place, (arm, values) in enumerate(zip(plan["arms"], present(figures), strict=True)):
        matched = arm["matched"]
        arms.append(
            ArmSummary(
                arm=arm["arm"],
                label=arm["label"],
                values=arm["values"],
                matched=(matched["path"], matched["value"]) if matched else None,
                n_params=arm["n_params"],
                epochs=_number(epochs[place]),
                seconds=_number(seconds[place]),
                validation=_number(validation[place]),
                figure=mean_interval(values),
                n_trials=int(planned[place]),
                flags=_flags(counts[place]),
                incomplete=len(values) < int(planned[place]),
            )
        )
    return tuple(arms)


def _best(arms: Sequence[ArmSummary], metric: Metric, curves: pa.Table, plan: Mapping[str, Any]) -> Best | None:
    known = [(arm.validation, arm) for arm in arms if arm.validation is not None]
    if not known or len(plan["axes"].get("domain", [])) > 1:
        return None  # figures of different tasks have no best
    pick = max if metric.direction == "max" else min
    _, arm = pick(known, key=lambda pair: pair[0])
    keys = [trial["key"] for trial in plan["trials"] if trial["arm"] == arm.arm]
    return Best(arm, len(known), _mean_curve(curves, keys, metric.name))


def _mean_curve(curves: pa.Table, keys: Sequence[str], name: str) -> tuple[tuple[int, float], ...]:
    points = curves.filter(pc.is_in(curves["key"], value_set=pa.array(keys, pa.string())))
    points = points.filter(pc.and_(pc.equal(points["split"], "val"), pc.equal(points["metric"], name)))
    points = points.filter(pc.is_finite(points["value"]))
    n_keys = pc.count_distinct(points["key"]).as_py()
    epochs = points.group_by("epoch").aggregate([("value", "mean"), ("key", "count_distinct")]).sort_by("epoch")
    epochs = epochs.filter(pc.equal(epochs["key_count_distinct"], n_keys))
    return tuple(zip(epochs["epoch"].to_pylist(), epochs["value_mean"].to_pylist(), strict=True))


def _codes(plan: Mapping[str, Any], path: str) -> tuple[Ints, list[Scalar]]:
    """(A,) each arm's place among the axis's values, and these values in the file's order."""
    places: dict[tuple[type, Scalar], int] = {}  # with the type, or True and 1 would be one value
    for value in [*plan["axes"][path], *(arm["values"][path] for arm in plan["arms"])]:
        places.setdefault((type(value), value), len(places))
    codes = np.array([places[type(arm["values"][path]), arm["values"][path]] for arm in plan["arms"]], dtype=np.int64)
    return codes, [value for _, value in places]


def _tied(one: Ints, other: Ints) -> bool:
    """Whether two axes move together: neither can change without the other."""
    pairs = len(np.unique(np.stack([one, other]), axis=1).T)
    return pairs == len(np.unique(one)) == len(np.unique(other))


def _tables(plan: Mapping[str, Any], grid: Grid, metric: Metric) -> tuple[Axis, ...]:
    coded = {path: _codes(plan, path) for path in plan["axes"]}
    varied = [path for path, (codes, _) in coded.items() if len(np.unique(codes)) > 1]
    groups: list[list[str]] = []
    for path in varied:
        group = next((group for group in groups if _tied(coded[group[0]][0], coded[path][0])), None)
        if group is None:
            groups.append([path])
        else:
            group.append(path)
    figures = grid.figures(metric.column)
    tables = []
    for group in groups:
        others = [coded[path][0] for path in varied if path not in group]
        rest = np.unique(np.stack(others), axis=1, return_inverse=True)[1].ravel() if others else np.zeros(len(plan["arms"]), np.int64)
        codes = coded[group[0]][0]
        names = {
            int(code): tuple(coded[path][1][coded[path][0][place]] for path in group)
            for code, place in zip(*np.unique(codes, return_index=True), strict=True)
        }
        tables.append(Axis(tuple(group), _axis_values(codes, names, rest, grid, figures)))
    return tuple(tables)


def _axis_values(codes: Ints, names: Mapping[int, tuple[Scalar, ...]], rest: Ints, grid: Grid, figures: Floats) -> tuple[AxisValue, ...]:
    """A row per value: `codes` (A,) tells each arm's value, `rest` (A,) what it has on the other axes."""
    counts, planned = grid.flags(figures), grid.planned
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    n_rest = len(np.unique(rest))
    values = []
    for arms in groups:
        by_seed = means(figures[arms], 0)
        values.append(
            AxisValue(
                values=names[int(codes[arms[0]])],
                figure=mean_interval(by_seed[np.isfinite(by_seed)]),
                n_arms=len(arms),
                n_trials=int(planned[arms].sum()),
                flags=_flags(counts[arms].sum(0)),
                incomplete=bool((planned[arms] & np.isnan(figures[arms])).any()),
                unbalanced=len(np.unique(rest[arms])) < n_rest,
            )
        )
    return tuple(values)


def _claim(claim: Mapping[str, Any], trials: pa.Table, plan: Mapping[str, Any], grid: Grid) -> ClaimSummary:
    """Sides are compared where they agree on every axis that the claim does not name, and there only with all their arms."""
    metric = choose_metric(claim["metric"], trials.column_names, plan, f"{plan['file']}: claims.metric")
    named = {*claim["better"], *claim["than"]}
    cells: tuple[dict[tuple[Scalar, ...], list[int]], ...] = ({}, {})
    for side, wanted in zip(cells, (claim["better"], claim["than"]), strict=True):
        for place, arm in enumerate(plan["arms"]):
            if all(_same(arm["values"][path], value) for path, value in wanted.items()):
                rest = tuple(value for path, value in arm["values"].items() if path not in named)
                side.setdefault(rest, []).append(place)
    common = [rest for rest in cells[0] if rest in cells[1]]
    figures = grid.figures(metric.column)
    better, than = (_stacked([figures[side[rest]].mean(0) for rest in common], figures.shape[1]) for side in cells)
    both = np.isfinite(better) & np.isfinite(than)
    left, right = (means(np.where(both, side, np.nan), 0) for side in (better, than))
    sides = [
        ClaimSide(dict(wanted), sum(len(places) for places in side.values()), mean_interval(mean[np.isfinite(mean)]))
        for wanted, side, mean in zip((claim["better"], claim["than"]), cells, (left, right), strict=True)
    ]
    incomplete = not both.all() or len(common) < max(len(cells[0]), len(cells[1]))
    difference = paired_difference(left, right)
    return ClaimSummary(claim["says"], metric, claim["margin"], sides[0], sides[1], difference, figures.shape[1], incomplete or not common)


def _same(value: Scalar, wanted: Scalar) -> bool:
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _stacked(rows: Sequence[Floats], width: int) -> Floats:
    return np.stack(rows) if rows else np.empty((0, width))


def _provenance(found: pa.Table) -> dict[str, dict[str, int]]:
    sha = pc.fill_null(found["git_sha"], "")
    changed = pc.and_(pc.fill_null(found["git_dirty"], False), pc.not_equal(sha, ""))
    sha = pc.if_else(changed, pc.binary_join_element_wise(sha, "+dirty", ""), sha)
    found = found.set_column(found.column_names.index("git_sha"), "git_sha", sha)
    seen = {}
    for name in PROVENANCE:
        counts = sorted(pc.value_counts(pc.fill_null(found[name], "")).to_pylist(), key=lambda pair: (-pair["counts"], pair["values"]))
        seen[name] = {pair["values"]: pair["counts"] for pair in counts if pair["values"]}
    return seen
