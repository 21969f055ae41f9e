"""The heads of a CV-KAN layer: how one layer is made of blocks. Complex tokens Z (B, T, D) -> Z (B, T, D).

Symbols: H = n_heads, P a block (see blocks.py), i the imaginary unit.
    emergent       Z <- P(Z): one block over all channels; what specialises does so by itself
    phase_offset   Z <- 1/H sum_h e^(-i theta_h) P(e^(i theta_h) Z), theta_h = 2 pi h / H, h = 0 ... H - 1, one P for all h
    factored       channels in H groups of D/H that follow each other, each with a block of its own
phase_offset has no further parameters; its map commutes with every rotation of all tokens by 2 pi / H. factored has as
many weights in psi as emergent, since H blocks have kan_hidden hidden units each and D/H channels.
Source: the CV-KAN research log; the formulas are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cvkan.models.output import Pair
from cvkan.models.pairs import rotate

Make = Callable[[int], nn.Module]
"""From a number of channels to a block."""


def emergent(make: Make, d: int, n_heads: int) -> nn.Module:
    """One block over all channels; n_heads is not used."""
    return make(d)


class PhaseOffsetHead(nn.Module):
    """Z <- 1/H sum_h e^(-i theta_h) P(e^(i theta_h) Z)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, make: Make, d: int, n_heads: int) -> None:
        super().__init__()
        self.block = make(d)
        self.n_heads = n_heads
        angles = [2 * math.pi * h / n_heads for h in range(n_heads)]
        self.register_buffer("cos", torch.tensor([math.cos(angle) for angle in angles]).reshape(-1, 1, 1, 1), persistent=False)
        self.register_buffer("sin", torch.tensor([math.sin(angle) for angle in angles]).reshape(-1, 1, 1, 1), persistent=False)

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        heads = (self.n_heads, *z.re.shape)
        turned = rotate(Pair(z.re.expand(heads), z.im.expand(heads)), self.cos, self.sin)
        every = None if mask is None else mask.expand(self.n_heads, *mask.shape).flatten(0, 1)
        out: Pair = self.block(Pair(turned.re.flatten(0, 1), turned.im.flatten(0, 1)), every)
        back = rotate(Pair(out.re.reshape(heads), out.im.reshape(heads)), self.cos, -self.sin)
        return Pair(back.re.mean(0), back.im.mean(0))


class FactoredHead(nn.Module):
    """Groups of D/H channels, each through a block of its own."""

    def __init__(self, make: Make, d: int, n_heads: int) -> None:
        super().__init__()
        assert d % n_heads == 0, (d, n_heads)
        self.d = d // n_heads
        self.blocks = nn.ModuleList(make(self.d) for _ in range(n_heads))

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        parts = zip(self.blocks, torch.split(z.re, self.d, -1), torch.split(z.im, self.d, -1), strict=True)
        out = [block(Pair(re, im), mask) for block, re, im in parts]
        return Pair(torch.cat([part.re for part in out], -1), torch.cat([part.im for part in out], -1))


HEADS: dict[str, Callable[[Make, int, int], nn.Module]] = {
    "emergent": emergent,
    "phase_offset": PhaseOffsetHead,
    "factored": FactoredHead,
}
"""From the name of a head to a layer (Z, mask) -> Z, built from what makes a block, channels D and the number of heads."""
