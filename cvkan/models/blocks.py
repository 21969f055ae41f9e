"""The blocks of CV-KAN: complex tokens Z (B, T, D) -> Z (B, T, D).

Symbols, with B batch, T tokens, D channels (all of d_complex, or a head's share), H = kan_hidden * mlp_expansion:
    A (B, 1 or T, D)   complex context, aggregate(Z)
    u = log|A|         log-magnitude; p = A/|A| unit phase
    psi_mag            MLP D -> H -> D on log-magnitudes (1 -> H -> 1 on each channel where shared)
    psi_phase          MLP 2D -> H -> 2D on (re p, im p) (2 -> H -> 2 where shared)
    s                  learned scalar, 0.1 at the start
    l                  the block's place, 0 first

polarizing, with interaction broadcast:
    A = aggregate(Z)                                   (B, 1 or T, D)
    a = s exp(5 tanh(psi_mag(u)))                      gated_tanh
    a = exp(u + s psi_mag(u))                          residual_log
    w = psi_phase(p)
    Z <- P(Z) = Z + a w / |w|                          (B, T, D)
pointwise: psi_mag reads (log|Z|, u), psi_phase reads (Z/|Z|, p), so a and w are (B, T, D). In residual_log u stays the
context's.
gated: Z <- (1 - g) Z + g P(Z) = Z + g a w / |w|, with g = sigmoid(W log|Z| + b) of each token's own log-magnitudes, W
D -> D (1 -> 1 where psi is shared). A gate of one logit a channel would only scale s, so the tokens decide.
phase_attention: P with a context of each token's own,
    A_t = sum_s w_ts v_s,  w_t = softmax_s Re(q_t conj(k_s)) / sqrt(D),  q, k, v complex linear maps of Z without bias,
over real tokens, and s <= t where the context is causal. The scores do not change when all tokens turn by one angle.
hierarchical: block l is P within each group of 2^(l+1) tokens that follow each other (in row-major order on images;
groups start at token 0): its aggregation sees the tokens of the group alone. The block in which a group holds all T
tokens, and those after it, equal the polarizing one, so information reaches all tokens from l = log2 T - 1 on. With
`causal` aggregation the running mean starts anew in each group: no token sees a later one.
Source: the CV-KAN research log; the formulas of gated, phase_attention and hierarchical are this project's.
Deviations: the first linear layer of psi reads its inputs apart instead of concatenated, which is the same map and
never expands a context to all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.models.aggregations import AGGREGATIONS
from cvkan.models.embeddings import Grid
from cvkan.models.output import Pair
from cvkan.models.pairs import add_along, gated_exponential, log_magnitude, masked_softmax, no_autocast, polar, widen, widened
from cvkan.models.twins import STEP, Psi, TwinSettings
from cvkan.settings import one_of

GATE = 5.0
"""Bound on the log-amplitude of gated_tanh: amplitudes lie in s e^-5 ... s e^5."""


def gated_tanh(u: Tensor, change: Tensor, s: Tensor) -> Tensor:
    """s exp(5 tanh(change)); u, the context's log-magnitude, is not used."""
    return gated_exponential(change, s, GATE)


def residual_log(u: Tensor, change: Tensor, s: Tensor) -> Tensor:
    """exp(u + s change)."""
    return (u + widen(change) * s).exp()


UPDATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"gated_tanh": gated_tanh, "residual_log": residual_log}
"""From the name of an update to the amplitude of a block's update, from (u, psi_mag, s)."""


HEAD_FEATURES = ("magnitude", "both")


class PolarSettings(TwinSettings):
    """Settings of models whose blocks change magnitudes and directions apart."""

    update: Annotated[str, one_of(UPDATES)] = "gated_tanh"
    """How a block's update grows: gated_tanh (bounded) or residual_log."""
    center_magnitudes: bool = True
    """Subtract the mean over tokens of log|z| after the last block."""
    head_features: Annotated[str, one_of(HEAD_FEATURES)] = "magnitude"
    """What scores are made of: magnitude (|z|, pooled or of every token) or both (re and im, or the direction, too)."""

    synonyms: ClassVar[Mapping[str, str]] = {
        **TwinSettings.synonyms,
        "features": "head_features",
        "center": "center_magnitudes",
    }


@dataclass(frozen=True)
class Layout:
    """What a block is built for, beside its settings."""

    d: int
    """Channels."""
    layer: int
    """The block's place, 0 first."""
    aggregation: str
    """A key of AGGREGATIONS."""
    window: int
    """Side of the window of local_window."""
    grid: Grid
    """Where tokens stand."""


class PolarizingBlock(nn.Module):
    """Z <- P(Z), with the context that `aggregate` makes of Z."""

    def __init__(self, settings: PolarSettings, d: int, aggregate: nn.Module) -> None:
        super().__init__()
        self.pointwise = settings.interaction == "pointwise"
        self.amplitude = UPDATES[settings.update]
        self.aggregate = aggregate
        views = 2 if self.pointwise else 1
        self.psi_mag = Psi(settings, d, views, 1)
        self.psi_phase = Psi(settings, d, 2 * views, 2)
        self.step = nn.Parameter(torch.tensor(STEP))

    def change(self, z: Pair, mask: Tensor | None) -> tuple[Tensor, Pair]:
        """Amplitude a and direction w, not normalised, of the update: (B, 1 or T, D) each."""
        u, p = polar(self.aggregate(z, mask))
        if self.pointwise:
            own_u, own_p = polar(z)
            (change,) = self.psi_mag(own_u, u)
            direction = self.psi_phase(own_p.re, own_p.im, p.re, p.im)
        else:
            (change,) = self.psi_mag(u)
            direction = self.psi_phase(p.re, p.im)
        return self.amplitude(u, change, self.step), Pair(direction[0], direction[1])

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        a, w = self.change(z, mask)
        return add_along(z, a, w)


class GatedBlock(nn.Module):
    """Z <- (1 - g) Z + g P(Z), g = sigmoid(W log|Z| + b); half of each at the start."""

    def __init__(self, settings: PolarSettings, d: int, block: PolarizingBlock) -> None:
        super().__init__()
        self.block = block
        self.per_dim = settings.per_dim
        self.gate = nn.Linear(d, d) if settings.per_dim else nn.Linear(1, 1)
        nn.init.xavier_uniform_(self.gate.weight, gain=0.1)
        nn.init.zeros_(self.gate.bias)

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        a, w = self.block.change(z, mask)
        u = log_magnitude(z)
        logit = self.gate(u) if self.per_dim else self.gate(u.unsqueeze(-1)).squeeze(-1)
        return add_along(z, a * torch.sigmoid(widen(logit)), w)


class ComplexMap(nn.Module):
    """W z with complex W (d, d): (..., d) -> (..., d)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.re = nn.Linear(d, d, bias=False)
        self.im = nn.Linear(d, d, bias=False)
        # Each of re and im sums over 2d real numbers, so Xavier's gain is shared between both halves.
        for half in (self.re, self.im):
            nn.init.xavier_uniform_(half.weight, gain=0.5**0.5)

    def forward(self, z: Pair) -> Pair:
        return Pair(self.re(z.re) - self.im(z.im), self.re(z.im) + self.im(z.re))


class PhaseAttention(nn.Module):
    """A_t = sum_s w_ts v_s with w_t = softmax_s Re(q_t conj(k_s)) / sqrt(d), over s <= t where `causal`.

    All of it runs in float32: tokens are not bounded, and their scores would overflow in float16.
    """

    def __init__(self, d: int, causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = ComplexMap(d), ComplexMap(d), ComplexMap(d)
        self.causal = causal
        self.scale = d**-0.5

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        with no_autocast(z.re):
            q, k, v = self.query(z), self.key(z), self.value(z)
            scores = torch.matmul(q.re, k.re.transpose(-2, -1)) + torch.matmul(q.im, k.im.transpose(-2, -1))
            # Padding, and tokens that follow, get a weight of exactly 0.
            seen = None if mask is None else mask.unsqueeze(-2)
            if self.causal:
                earlier = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
                seen = earlier if seen is None else seen & earlier
            weights = masked_softmax(scores * self.scale, seen)
            return Pair(torch.matmul(weights, v.re), torch.matmul(weights, v.im))


class HierarchicalBlock(nn.Module):
    """P within groups of 2^(l+1) tokens. The last group of a sequence may be smaller."""

    def __init__(self, block: PolarizingBlock, layer: int) -> None:
        super().__init__()
        self.block = block
        self.group: int = 2 ** (layer + 1)

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        batch, tokens, d = z.re.shape
        if self.group >= tokens:
            grouped: Pair = self.block(z, mask)
            return grouped
        missing = -tokens % self.group
        if missing:
            if mask is None:
                mask = torch.ones(batch, tokens, dtype=torch.bool, device=z.re.device)
            mask = F.pad(mask, (0, missing))
            z = Pair(F.pad(z.re, (0, 0, 0, missing)), F.pad(z.im, (0, 0, 0, missing)))
        groups = (-1, self.group)
        grouped = self.block(
            Pair(z.re.reshape(*groups, d), z.im.reshape(*groups, d)),
            None if mask is None else mask.reshape(groups),
        )
        whole = (batch, tokens + missing, d)
        return Pair(grouped.re.reshape(whole)[:, :tokens], grouped.im.reshape(whole)[:, :tokens])


def _polarizing(settings: PolarSettings, layout: Layout) -> PolarizingBlock:
    aggregate = AGGREGATIONS[layout.aggregation](layout.d, layout.grid, layout.window)
    return PolarizingBlock(settings, layout.d, aggregate)


def _gated(settings: PolarSettings, layout: Layout) -> nn.Module:
    return GatedBlock(settings, layout.d, _polarizing(settings, layout))


def _phase_attention(settings: PolarSettings, layout: Layout) -> nn.Module:
    return PolarizingBlock(settings, layout.d, PhaseAttention(layout.d, layout.aggregation == "causal"))


def _hierarchical(settings: PolarSettings, layout: Layout) -> nn.Module:
    return HierarchicalBlock(_polarizing(settings, layout), layout.layer)


BLOCKS: dict[str, Callable[[PolarSettings, Layout], nn.Module]] = {
    "polarizing": _polarizing,
    "gated": _gated,
    "phase_attention": _phase_attention,
    "hierarchical": _hierarchical,
}
"""From the name of a block to its module (Z, mask) -> Z."""
