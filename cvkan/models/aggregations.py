"""The context A that a block's tokens share: from tokens z (B, T, D) to A (B, 1, D), or (B, T, D) where it is local.

Symbols: z tokens, A context, w (B, T) weights that sum to 1 over real tokens, m (B, T) mask of real tokens,
k the side of a window, R (H, H) and C (W, W) averaging matrices over the rows and columns of the token grid H x W.
Source: the CV-KAN research log. All sums run in float32.
An aggregation is a module `forward(z: Pair, mask: Tensor | None) -> Pair` built from (D, grid, window), and a line in
AGGREGATIONS. `causal` is the only one whose context at token t does not see tokens after t.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.models.embeddings import Grid
from cvkan.models.output import Pair
from cvkan.models.pairs import (
    magnitude,
    masked_softmax,
    no_autocast,
    running_mean,
    token_mean,
    weighted_sum,
    widened,
)


class MeanAggregation(nn.Module):
    """A = mean_t z_t."""

    def __init__(self, d: int, grid: Grid, window: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        return Pair(token_mean(z.re, mask), token_mean(z.im, mask))


class MagnitudeWeightedAggregation(nn.Module):
    """A = sum_t w_t z_t with w_t = mean_D |z_t|, divided by its sum over real tokens."""

    def __init__(self, d: int, grid: Grid, window: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        weights = magnitude(z).mean(-1)
        if mask is not None:
            weights = weights.masked_fill(~mask, 0.0)
        # |z| >= sqrt(EPS), so only a row without real tokens could have a sum of 0.
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
        return Pair(weighted_sum(weights, z.re).unsqueeze(-2), weighted_sum(weights, z.im).unsqueeze(-2))


class AttentionAggregation(nn.Module):
    """A = sum_t w_t z_t with w = softmax_t Re<z_t, q> / sqrt(D), q (D) complex and learned.

    A linear score has no bias: the softmax would cancel it.
    """

    def __init__(self, d: int, grid: Grid, window: int) -> None:
        super().__init__()
        self.query_re = nn.Parameter(torch.randn(d))
        self.query_im = nn.Parameter(torch.randn(d))
        self.scale = d**-0.5

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        with no_autocast(z.re):
            scores = F.linear(z.re, self.query_re.unsqueeze(0)) + F.linear(z.im, self.query_im.unsqueeze(0))
        weights = masked_softmax(scores.squeeze(-1) * self.scale, mask)
        return Pair(weighted_sum(weights, z.re).unsqueeze(-2), weighted_sum(weights, z.im).unsqueeze(-2))


def reflect_average(n: int, window: int) -> Tensor:
    """(n, n) matrix whose row i averages i - k//2 ... i + k//2, indices outside reflected about the ends.

    A window wider than the axis allows (k//2 >= n) is a mistake that `check` of the model reports.
    """
    reach = window // 2
    assert reach < n, "the window reflects more than once"
    rows = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i - reach, i + reach + 1):
            inside = abs(j) if j < n else 2 * (n - 1) - j
            rows[i][inside] += 1.0 / window
    return torch.tensor(rows)


class LocalWindowAggregation(nn.Module):
    """A at a grid position = mean of the k x k tokens around it, reflect padded: A = R Z C^T per channel.

    Two small matrices instead of padding: the backward pass of reflect padding is not deterministic on CUDA.
    With a mask, the mean runs over the window's real tokens; 0 where it has none.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, d: int, grid: Grid, window: int) -> None:
        super().__init__()
        # A sequence is a grid of one row, which is its own average.
        self.grid = (1, *grid)[-2:]
        self.register_buffer("rows", reflect_average(self.grid[0], 1 if len(grid) == 1 else window), persistent=False)
        self.register_buffer("columns", reflect_average(self.grid[1], window), persistent=False)

    def _average(self, x: Tensor) -> Tensor:
        height, width = self.grid
        batch, tokens, d = x.shape
        with no_autocast(x):
            x = torch.matmul(self.columns.to(x.dtype), x.reshape(batch, height, width, d))
            x = torch.matmul(self.rows.to(x.dtype), x.reshape(batch, height, width * d))
        return x.reshape(batch, tokens, d)

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        if mask is None:
            return Pair(self._average(z.re), self._average(z.im))
        kept = mask.unsqueeze(-1)
        # Shares are multiples of 1/k^2, so half of one tells an empty window from any other.
        share = self._average(kept.to(z.re.dtype))
        inverse = torch.where(share > 1e-6, 1.0 / share.clamp(min=1e-6), 0.0)
        return Pair(
            self._average(z.re.masked_fill(~kept, 0.0)) * inverse,
            self._average(z.im.masked_fill(~kept, 0.0)) * inverse,
        )


class CausalAggregation(nn.Module):
    """A_t = mean_{i<=t} z_i over real tokens."""

    def __init__(self, d: int, grid: Grid, window: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        return Pair(running_mean(z.re, mask), running_mean(z.im, mask))


AGGREGATIONS: dict[str, Callable[[int, Grid, int], nn.Module]] = {
    "mean": MeanAggregation,
    "magnitude_weighted": MagnitudeWeightedAggregation,
    "attention": AttentionAggregation,
    "local_window": LocalWindowAggregation,
    "causal": CausalAggregation,
}
"""From the name of an aggregation to its module, built from channels D, the token grid and the window's side."""
