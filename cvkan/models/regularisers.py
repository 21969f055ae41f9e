"""Penalties on the phases of the last layer's tokens, added to the loss with a weight.

Symbols: z (B, T, D) tokens, p = z/|z| unit phases, N the real tokens of an example.
Source: the CV-KAN research log names both; the formulas below are this project's.
A regulariser is a function (tokens: Pair, mask: Tensor | None) -> scalar Tensor float32 in [0, 1] or near it, and a
line in REGULARISERS. `mask` (B, T) bool, True = real token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cvkan.models.output import Pair
from cvkan.models.pairs import no_autocast, unit


def _real(p: Pair, mask: Tensor | None) -> Pair:
    if mask is None:
        return p
    kept = mask.unsqueeze(-1)
    return Pair(p.re.masked_fill(~kept, 0.0), p.im.masked_fill(~kept, 0.0))


def diversity(tokens: Pair, mask: Tensor | None = None) -> Tensor:
    """Mean over examples and channel pairs d != e of |c_de|^2, c_de = 1/N sum_t p_td conj(p_te), in [0, 1].

    c is the correlation of unit phasors: 1 when two channels keep one phase difference over all tokens, near 0
    (1/N in the mean) when their phases are independent. 0 for D = 1, and for an example without real tokens.
    """
    p = _real(unit(tokens), mask)
    d = p.re.shape[-1]
    n = p.re.new_full((1,), p.re.shape[-2]) if mask is None else mask.sum(-1).clamp(min=1).to(p.re.dtype)
    with no_autocast(p.re):
        re_t, im_t = p.re.transpose(-2, -1), p.im.transpose(-2, -1)
        c_re = torch.matmul(re_t, p.re) + torch.matmul(im_t, p.im)
        cross = torch.matmul(im_t, p.re)
    c_im = cross - cross.transpose(-2, -1)
    squared = (c_re.square() + c_im.square()).sum((-2, -1))
    own = c_re.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    return ((squared - own) / (n * n)).mean() / max(1, d * (d - 1))


def phase_anchor(tokens: Pair, mask: Tensor | None = None) -> Tensor:
    """Mean over real tokens and channels of |p - a|^2, a the nearest of 1, i, -1, -i.

    |p - a|^2 = 2 - 2 max(|re p|, |im p|) = 2 (1 - cos delta), delta the angle to the nearest anchor: delta^2 when
    small, 2 - sqrt(2) at most. A token channel of exactly 0 has no phase: it counts 2 and has no gradient.
    """
    p = unit(tokens)
    distance = 2.0 - 2.0 * torch.maximum(p.re.abs(), p.im.abs())
    if mask is None:
        return distance.mean()
    kept = mask.unsqueeze(-1)
    return distance.masked_fill(~kept, 0.0).sum() / (mask.sum() * distance.shape[-1]).clamp(min=1)


REGULARISERS: dict[str, Callable[[Pair, Tensor | None], Tensor]] = {
    "diversity": diversity,
    "phase_anchor": phase_anchor,
}
"""From the name of a regulariser (a key of the loss settings) to its function."""
