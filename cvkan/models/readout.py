"""From real tokens to what a task asks for: the last layer of every real-valued token model.

Symbols: h (B, T, d) tokens, n = task.n_outputs, H = task.horizon.
    classes                      the mean over real tokens (or the last of them), linear d -> n    (B, n)
    token_classes, next_token    linear d -> n on every token                                      (B, T, n)
    forecast                     linear T -> H along time, then linear d -> n on every step        (B, H, n)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models.pairs import no_autocast, token_mean, weighted_sum, widen

Pooled = Literal["mean", "last"]


def last_token(h: Tensor, mask: Tensor | None) -> Tensor:
    """h (B, T, d) at the last real token -> (B, d). `mask` (B, T) bool; padding stands at the end."""
    if mask is None:
        return widen(h[:, -1])
    places = torch.arange(h.shape[-2], device=h.device)
    return weighted_sum((places == mask.sum(-1, keepdim=True) - 1).to(widen(h).dtype), h)


class Readout(nn.Module):
    """Tokens (B, T, d) to scores, float32; see the head of this file."""

    def __init__(self, d: int, task: Task, pooled: Pooled = "mean") -> None:
        super().__init__()
        self.output = task.output
        self.pooled = pooled
        self.time = nn.Linear(task.shape[0], task.horizon) if task.output == "forecast" else None
        self.head = nn.Linear(d, task.n_outputs)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        with no_autocast(h):
            h = widen(h)
            if self.time is not None:
                h = self.time(h.transpose(-2, -1)).transpose(-2, -1)
            elif self.output == "classes":
                h = token_mean(h, mask).squeeze(-2) if self.pooled == "mean" else last_token(h, mask)
            scores: Tensor = self.head(h)
        return scores.float()
