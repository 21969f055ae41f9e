"""From tokens to one complex vector per example.

Symbols: z (B, T, D) tokens, w (B, T) weights that sum to 1 over real tokens, q (D) a learned complex query.
Source: the image log (attention pooling) and the CV-KAN research log. Every pooling is a weighted sum of tokens, so
that none needs an operation whose backward pass is not deterministic. Everything runs in float32: tokens are not
bounded, and their scores would overflow in float16.
A pooling is a module `forward(z: Pair, mask: Tensor | None) -> Pair` (B, D) built from D, and a line in POOLINGS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.models.output import Pair
from cvkan.models.pairs import magnitude, masked_softmax, no_autocast, token_mean, weighted_sum, widened


class MeanPooling(nn.Module):
    """mean_t z_t."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        return Pair(token_mean(z.re, mask).squeeze(-2), token_mean(z.im, mask).squeeze(-2))


def largest(size: Tensor, mask: Tensor | None) -> Tensor:
    """Weights (B, T): 1 at the real token of largest `size` (B, T), none below 0, the first of equals; 0 elsewhere."""
    size = size.detach()
    if mask is not None:
        size = size.masked_fill(~mask, -1.0)
    positions = torch.arange(size.shape[-1], device=size.device)
    chosen = positions == size.argmax(-1, keepdim=True)
    return (chosen if mask is None else chosen & mask).to(size.dtype)


class MaxPooling(nn.Module):
    """The token of largest summed magnitude sum_D |z|; the first of equals."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        weights = largest(magnitude(z).sum(-1), mask)
        return Pair(weighted_sum(weights, z.re), weighted_sum(weights, z.im))


class TokenScore(nn.Module):
    """x (B, T, d) -> (B, T): linear d -> hidden, tanh, linear hidden -> 1.

    The last map has no bias: a softmax over tokens would cancel it.
    """

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(d, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.score(torch.tanh(self.hidden(x)))
        return score.squeeze(-1)


class AttentionPooling(nn.Module):
    """sum_t w_t re_t + i sum_t v_t im_t with w = softmax_t f(re_t), v = softmax_t g(im_t), f and g TokenScore D -> D/2 -> 1.

    As the image log's AttentionPool2d: re and im are weighted apart, each by its own scores.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.re = TokenScore(d, max(1, d // 2))
        self.im = TokenScore(d, max(1, d // 2))

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        with no_autocast(z.re):
            return Pair(
                weighted_sum(masked_softmax(self.re(z.re), mask), z.re),
                weighted_sum(masked_softmax(self.im(z.im), mask), z.im),
            )


class QueryPooling(nn.Module):
    """sum_t w_t z_t with w = softmax_t |<z_t, q>|, <z, q> = sum_D z conj(q)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.query_re = nn.Parameter(torch.randn(d) * d**-0.5)
        self.query_im = nn.Parameter(torch.randn(d) * d**-0.5)

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        with no_autocast(z.re):
            # <z, q> = (re q_re + im q_im) + i (im q_re - re q_im)
            from_re = F.linear(z.re, torch.stack((self.query_re, -self.query_im)))
            inner = from_re + F.linear(z.im, torch.stack((self.query_im, self.query_re)))
            weights = masked_softmax(magnitude(Pair(inner[..., 0], inner[..., 1])), mask)
        return Pair(weighted_sum(weights, z.re), weighted_sum(weights, z.im))


POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "attention": AttentionPooling,
    "query": QueryPooling,
}
"""From the name of a pooling to its module, built from the number of channels D."""
