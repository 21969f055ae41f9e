"""Reversible instance normalisation: a model sees each series with mean 0 and deviation 1, and its forecast is scaled back.

Symbols: x (B, T, C) a series, mu and sigma (B, 1, C) its mean and deviation over T, y (B, H, C) a forecast.
    y = model((x - mu) / sigma) sigma + mu
Source: Kim et al. 2022 (RevIN), without its learned scale and shift.
"""

from __future__ import annotations

from torch import Tensor, nn

from cvkan.models.output import Output

EPS = 1e-5
"""Added to the variance: a constant series is only centred."""


class Reversible(nn.Module):
    """Wraps a model whose input is a series and whose output is a forecast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        mean = x.mean(-2, keepdim=True)
        deviation = (x.var(-2, keepdim=True, correction=0) + EPS).sqrt()
        output: Output = self.model((x - mean) / deviation, mask)
        return output._replace(scores=output.scores * deviation + mean)
