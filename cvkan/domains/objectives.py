"""What a task asks of scores: the loss to train on, and the metrics to report. One entry for each `Task.output`."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

RISING = frozenset({"accuracy"})
"""Metrics of which more is better."""
REACHED = "reached_step"
"""The figure of trials with `train.reach`: the step after which the validation part first had the asked figure."""
UNASKED = -100
"""What stands for the target of a token that is not asked for; any negative target does."""


class Objective(Protocol):
    """Loss and metrics of one kind of output."""

    metrics: tuple[str, ...]
    """Names of what `sums` returns."""

    def loss(self, scores: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        """Mean training loss of a batch, a scalar."""

    def sums(self, scores: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Each metric summed over what is asked of a batch, "loss" among them, and how much that is, all float64."""


class Classification:
    """Scores (B, C) against classes (B,): cross-entropy in nats, and the share of right answers."""

    metrics: tuple[str, ...] = ("accuracy", "loss")

    def loss(self, scores: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(scores, y.long(), label_smoothing=label_smoothing)

    def sums(self, scores: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        y = y.long()
        loss = F.cross_entropy(scores, y, reduction="none").sum(dtype=torch.float64)
        right = (scores.argmax(-1) == y).sum(dtype=torch.float64)
        return {"accuracy": right, "loss": loss}, torch.tensor(len(y), dtype=torch.float64, device=y.device)


class TokenClassification:
    """Scores (B, T, C) against classes (B, T), those below 0 left out: cross-entropy in nats, and the share of right answers."""

    metrics: tuple[str, ...] = ("accuracy", "loss")

    def loss(self, scores: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        target = _targets(y)
        total = F.cross_entropy(scores.flatten(0, 1), target, label_smoothing=label_smoothing, ignore_index=UNASKED, reduction="sum")
        return total / (target >= 0).sum().clamp(min=1)

    def sums(self, scores: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scores, target = scores.flatten(0, 1), _targets(y)
        loss = F.cross_entropy(scores, target, ignore_index=UNASKED, reduction="none").sum(dtype=torch.float64)
        right = (scores.argmax(-1) == target).sum(dtype=torch.float64)
        return {"accuracy": right, "loss": loss}, (target >= 0).sum(dtype=torch.float64)


class NextToken(TokenClassification):
    """As TokenClassification, with bits per token beside: bpc = loss / ln 2."""

    metrics: tuple[str, ...] = ("bpc", "accuracy", "loss")

    def sums(self, scores: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        totals, count = super().sums(scores, y)
        return {"bpc": totals["loss"] / math.log(2), **totals}, count


class Forecast:
    """Scores (B, H, C) against the series that came (B, H, C): mean squared and mean absolute error over steps and channels."""

    metrics: tuple[str, ...] = ("mse", "mae", "loss")

    def loss(self, scores: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        return F.mse_loss(scores, y)

    def sums(self, scores: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        error = (scores - y).double()
        squared = error.square().sum()
        count = torch.tensor(y.numel(), dtype=torch.float64, device=y.device)
        return {"mse": squared, "mae": error.abs().sum(), "loss": squared}, count


def _targets(y: Tensor) -> Tensor:
    """Targets (B, T) of any integer type as (B T) int64, UNASKED where negative."""
    y = y.flatten().long()
    return y.masked_fill(y < 0, UNASKED)


OBJECTIVES: dict[str, Objective] = {
    "classes": Classification(),
    "token_classes": TokenClassification(),
    "next_token": NextToken(),
    "forecast": Forecast(),
}
"""From `Task.output` to its loss and metrics."""


def figures(metrics: tuple[str, ...], further: tuple[str, ...]) -> list[str]:
    """The metric columns of a trial: last_train_loss, {best_val,last_val,test}_METRIC, and test_METRIC_NAME for each further test part."""
    plain = [f"{part}_{name}" for part in ("best_val", "last_val", "test") for name in metrics]
    return ["last_train_loss", *plain, *(f"test_{name}_{part}" for part in further for name in metrics)]
