"""The plan's trials beside their rows, as matrices of arms and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cvkan.errors import Problem, UserError
from cvkan.orchestrator.ledger import STATUSES
from cvkan.orchestrator.stats import Floats

Ints = NDArray[np.int64]

MISSING = "missing"
"""The flag of a planned trial without a row: it has not run yet."""
NO_FIGURE = "no_figure"
"""The flag of a finished trial whose row lacks the metric, or holds one that is not finite."""
FLAGS = (*STATUSES, MISSING, NO_FIGURE)
WITH_FIGURE = ("completed", "stopped")


@dataclass(frozen=True)
class Grid:
    """The plan's trials beside their rows, and the places of both among A arms and S seeds."""

    rows: pa.Table
    """One row per planned trial, in the plan's order; all null where there is no row."""
    status: Ints
    """(P,) places in FLAGS."""
    arm: Ints
    seed: Ints
    shape: tuple[int, int]

    @property
    def planned(self) -> NDArray[np.bool_]:
        """(A, S), whether the plan has such a trial."""
        grid = np.zeros(self.shape, dtype=np.bool_)
        grid[self.arm, self.seed] = True
        return grid

    def figures(self, column: str) -> Floats:
        """(A, S) values of a column, NaN where a trial has no figure."""
        grid = np.full(self.shape, np.nan)
        if column in self.rows.column_names:
            values = pc.fill_null(self.rows[column].cast(pa.float64()), np.nan).to_numpy()
            finished = np.isin(self.status, [FLAGS.index(status) for status in WITH_FIGURE])
            grid[self.arm, self.seed] = np.where(finished & np.isfinite(values), values, np.nan)
        return grid

    def flags(self, figures: Floats) -> Ints:
        """(A, F) trials of each arm by flag; a finished trial without a figure counts as `no_figure`."""
        flag = self.status.copy()
        finished = np.isin(flag, [FLAGS.index(status) for status in WITH_FIGURE])
        flag[finished & np.isnan(figures[self.arm, self.seed])] = FLAGS.index(NO_FIGURE)
        n_flags = len(FLAGS)
        counts = np.bincount(self.arm * n_flags + flag, minlength=self.shape[0] * n_flags)
        return counts.reshape(self.shape[0], n_flags).astype(np.int64)


def make_grid(trials: pa.Table, plan: Mapping[str, Any], seeds: Sequence[int]) -> tuple[Grid, pa.Table]:
    """The plan's trials as a grid, and the rows that belong to it."""
    planned = pa.array([trial["key"] for trial in plan["trials"]], pa.string())
    place = pc.index_in(planned, value_set=trials["key"].combine_chunks())
    rows = trials.take(place)
    status = pc.index_in(pc.fill_null(rows["status"], MISSING), value_set=pa.array(FLAGS))
    if status.null_count:
        raise UserError(Problem(plan["name"], "status", "a row has a status that this cvkan does not know; use the version that wrote it"))
    arm_place = {arm["arm"]: place for place, arm in enumerate(plan["arms"])}
    seed_place = {seed: place for place, seed in enumerate(seeds)}
    arm = np.array([arm_place[trial["arm"]] for trial in plan["trials"]], dtype=np.int64)
    seed = np.array([seed_place[trial["seed"]] for trial in plan["trials"]], dtype=np.int64)
    grid = Grid(rows, status.to_numpy().astype(np.int64), arm, seed, (len(plan["arms"]), len(seeds)))
    return grid, trials.take(place.drop_null())


def present(grid: Floats) -> list[Floats]:
    """The values of every row that are there."""
    return [row[there] for row, there in zip(grid, np.isfinite(grid), strict=True)]


def means(grid: Floats, axis: int) -> Floats:
    """Mean over what is there, NaN where nothing is."""
    n = np.isfinite(grid).sum(axis)
    found: Floats = np.where(n > 0, np.nansum(grid, axis) / np.maximum(n, 1), np.nan)
    return found


def medians(grid: Floats) -> Floats:
    """Median of every row over what is there, NaN where nothing is."""
    n = np.isfinite(grid).sum(1)
    ordered = np.sort(grid, axis=1)  # NaN stands last
    rows = np.arange(len(grid))
    found: Floats = (ordered[rows, np.maximum(n - 1, 0) // 2] + ordered[rows, np.minimum(n // 2, max(grid.shape[1] - 1, 0))]) / 2
    return found
