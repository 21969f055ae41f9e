"""What a task asks of scores: the loss to train on, and the metrics to report. One entry for each `Task.output`."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Objective(Protocol):
    """Loss and metrics of one kind of output."""

    metrics: tuple[str, ...]
    """Names of what `sums` returns."""

    def loss(self, scores: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        """Mean training loss of a batch, a scalar."""

    def sums(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Each metric summed over a batch's examples, "loss" among them: their total over a split is divided by its size."""


class Classification:
    """Scores (B, C) against classes (B,): cross-entropy in nats, and the share of right answers."""

    metrics: tuple[str, ...] = ("accuracy", "loss")

    def loss(self, scores: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(scores, y, label_smoothing=label_smoothing)

    def sums(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(scores, y, reduction="none").sum(dtype=torch.float64)
        return {"loss": loss, "accuracy": (scores.argmax(-1) == y).sum(dtype=torch.float64)}


OBJECTIVES: dict[str, Objective] = {"classes": Classification()}
