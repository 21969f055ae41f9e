"""Which column of the ledger a report is about, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cvkan.errors import Problem, UserError, did_you_mean
from cvkan.orchestrator.ledger import COSTS

PARTS = ("best_val_", "last_val_", "last_train_", "test_")
"""What stands before a metric's name in the ledger's columns."""

DIRECTIONS: Mapping[str, Literal["max", "min"]] = {"accuracy": "max", "loss": "min", "mse": "min", "mae": "min", "bpc": "min"}


FRACTIONS = frozenset({"accuracy"})
"""Metrics between 0 and 1 that people read in per cent."""

SYNONYMS = {
    "acc": "test_accuracy", "test_acc": "test_accuracy", "val_accuracy": "best_val_accuracy", "val_acc": "best_val_accuracy",
    "val_loss": "best_val_loss", "train_loss": "last_train_loss",
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A column of figures and the column of validation figures by which its best arm is chosen."""

    column: str
    """Such as test_accuracy."""
    name: str
    """Such as accuracy."""
    direction: Literal["max", "min"]
    selection: str
    """Such as best_val_accuracy: never a test figure. A cost (time, steps) is its own."""

    @property
    def is_fraction(self) -> bool:
        """Whether people read it in per cent."""
        return self.name in FRACTIONS


def choose_metric(name: str | None, columns: Iterable[str], plan: Mapping[str, Any], where: str) -> Metric:
    """The metric of a column, or the test figure of a bare name ("loss"); the plan's headline where `name` is None.

    Raises:
        UserError: `name` is no metric of this sweep; names the nearest that is. `where` says where it was written.
    """
    directions = {**DIRECTIONS, plan["metric"]["name"]: plan["metric"]["direction"]}
    headline = (plan["metric"]["name"], "loss")
    # A sweep without any finished trial has no columns of figures yet, but its metrics are known.
    bases = {f"{part}{base}": base for part in PARTS for base in headline if part != "last_train_"} | {"last_train_loss": "loss"}
    for column in columns:
        part = next((part for part in PARTS if column.startswith(part)), None)
        if part is None:
            continue
        # A figure of a further test part is test_METRIC_PART.
        words = column.removeprefix(part).split("_")
        base = next((name for name in ("_".join(words[:n]) for n in range(len(words), 0, -1)) if name in directions), None)
        if base is not None:
            bases[column] = base
    # Like other figures it has no column yet in a sweep without finished trials.
    reached = name == "reached_step" and (name in columns or any(claim["metric"] == name for claim in plan["claims"]))
    if name is not None and (name in COSTS or reached):
        return Metric(name, name, "min", name)
    name = f"test_{headline[0]}" if name is None else name
    column = f"test_{name}" if f"test_{name}" in bases else name
    if column not in bases:
        raise UserError(Problem(where, "", f"{name!r} is no metric of {plan['name']}; {did_you_mean(name, bases, SYNONYMS)}"))
    base = bases[column]
    return Metric(column, base, directions[base], f"best_val_{base}")
