"""real_polar: CV-KAN whose magnitudes do not interfere; tokens carry magnitudes and directions, which are summed apart.

Symbols, with B batch, T tokens, D = d_complex, H = kan_hidden * mlp_expansion, EPS under every root and log as in pairs.py:
    u (B, T, D)         log-magnitudes, real; m = e^u magnitudes
    p (B, T, D, 2)      unit directions, two real numbers each, carried as a Pair
    U, q                the context's log-magnitude (B, 1 or T, D) and direction (B, 1 or T, D, 2)
    psi_mag, psi_phase  MLPs as CV-KAN's, D -> H -> D and 2D -> H -> 2D (of one channel where per_dim is false)
    s                   learned scalar, 0.1 at the start
    r (D, 2)            learned directions of the last layer, of mean square length 1 at the start

Block, with interaction broadcast; the mean is the running mean where the task is causal:
    U = log mean_t m_t            tokens of opposite phase add, where CV-KAN's cancel
    q = c / |c|, c = mean_t p_t
    a = s exp(5 tanh(psi_mag(U))) or exp(U + s psi_mag(U))     CV-KAN's `update`
    u <- log|m + a|               magnitudes grow, whatever the directions are
    p <- v / |v|, v = p + s w,  w = psi_phase(q) / |psi_phase(q)|
pointwise: psi_mag reads (u, U), psi_phase reads (p, q).
Model: input -> CV-KAN's embedding, positions as rotations of p -> n_layers x (block, norm of u) -> centred u -> pooling
of magnitudes M and directions c apart (B, D) -> features -> scores.
`head_features`: magnitude, M <c, r> (D features); both, (M, c) (3D). Of tokens that are not pooled, M = m and c = p.
`norm`, of u over D: layer, standardised, with gain and bias; rms, u - log sqrt(mean e^2u); logmag, standardised.
`pooling`: POLAR_POOLINGS below.
Directions are averaged as unit vectors: opposite ones still cancel among themselves, but they weaken no magnitude, and a
large magnitude does not make its direction count more.
Source: this project's; the question is whether interference, the sum of complex numbers, matters.
Deviations: u grows by log|m + a| instead of by s psi_mag(U), because centring would cancel what every token gets alike.
Scores read magnitudes along learned directions, because nothing else lets directions reach the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models.blocks import UPDATES, PolarSettings
from cvkan.models.embeddings import POSITIONS, ComplexTokens, token_grid
from cvkan.models.norms import NORM_EPS
from cvkan.models.output import Output, Pair
from cvkan.models.pairs import EPS, add, masked_softmax, no_autocast, polar, running_mean, scale, token_mean, unit, weighted_sum
from cvkan.models.poolings import TokenScore, largest
from cvkan.models.twins import INPUTS, ONLY, OUTPUTS, STEP, Psi, Scores, TwinWithMeans, check_twin, pools, resolved, width_step
from cvkan.settings import one_of

Pooled = tuple[Tensor, Pair]
"""Magnitudes M and mean directions c, (B, D) each."""


def log_of(x: Tensor) -> Tensor:
    """log|x| = log(x^2 + EPS)/2 for real x, with gradient 0 at x = 0."""
    return (x * x + EPS).log() * 0.5


def pooled(u: Tensor, p: Pair, of_magnitudes: Tensor, of_directions: Tensor) -> Pooled:
    """M = sum_t w_t e^(u_t), c = sum_t v_t p_t for weights w and v (B, T)."""
    return weighted_sum(of_magnitudes, u.exp()), Pair(weighted_sum(of_directions, p.re), weighted_sum(of_directions, p.im))


class MeanPooling(nn.Module):
    """M = mean_t m_t, c = mean_t p_t."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, u: Tensor, p: Pair, mask: Tensor | None = None) -> Pooled:
        means = [token_mean(x, mask).squeeze(-2) for x in (u.exp(), p.re, p.im)]
        return means[0], Pair(means[1], means[2])


class MaxPooling(nn.Module):
    """The token of largest summed magnitude sum_D m; the first of equals."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, u: Tensor, p: Pair, mask: Tensor | None = None) -> Pooled:
        weights = largest(u.exp().sum(-1), mask)
        return pooled(u, p, weights, weights)


class AttentionPooling(nn.Module):
    """w = softmax_t f(u_t), v = softmax_t g(p_t) with f TokenScore D -> D/2 -> 1 and g 2D -> D/4 -> 1: CV-KAN's size."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.of_magnitudes = TokenScore(d, max(1, d // 2))
        self.of_directions = TokenScore(2 * d, max(1, d // 4))

    def forward(self, u: Tensor, p: Pair, mask: Tensor | None = None) -> Pooled:
        with no_autocast(u):
            scores = self.of_magnitudes(u), self.of_directions(torch.cat(p, -1))
        return pooled(u, p, masked_softmax(scores[0], mask), masked_softmax(scores[1], mask))


class QueryPooling(nn.Module):
    """w = v = softmax_t sum_D m |<p, q>| with learned q (D, 2): no channel cancels another."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(2, d) / d)

    def forward(self, u: Tensor, p: Pair, mask: Tensor | None = None) -> Pooled:
        along = (p.re * self.query[0] + p.im * self.query[1]).abs()
        weights = masked_softmax((u.exp() * along).sum(-1), mask)
        return pooled(u, p, weights, weights)


POLAR_POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "attention": AttentionPooling,
    "query": QueryPooling,
}
"""From the name of a pooling, the same as CV-KAN's, to its module (u, p, mask) -> (M, c), built from D."""


def standardised(u: Tensor) -> Tensor:
    """(u - mean_D u) / std_D u."""
    centred = u - u.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + NORM_EPS).rsqrt()


class LayerNorm(nn.Module):
    """g standardised(u) + b, with g and b (D)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, u: Tensor) -> Tensor:
        return standardised(u) * self.gain + self.bias


class NoNorm(nn.Module):
    """u as it is."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        return u


class RMSNorm(nn.Module):
    """u - log sqrt(mean_D e^(2u))."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        return u - 0.5 * ((2.0 * u).exp().mean(-1, keepdim=True) + NORM_EPS).log()


class LogMagnitudeNorm(nn.Module):
    """standardised(u)."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        return standardised(u)


LOG_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": NoNorm,
    "layer": LayerNorm,
    "rms": RMSNorm,
    "logmag": LogMagnitudeNorm,
}
"""From the name of a norm to its module u -> u, built from D."""


class RealPolarSettings(PolarSettings, TwinWithMeans):
    """Real-valued twin of CV-KAN: magnitudes and directions are averaged and changed apart, so that opposite phases weaken nothing."""

    name: Literal["real_polar"] = "real_polar"
    norm: Annotated[str, one_of(LOG_NORMS)] = "none"
    """Normalisation of log-magnitudes after each block: none, layer, rms or logmag."""


class RealPolarBlock(nn.Module):
    """(u, p) -> (u, p); see the head of this file."""

    def __init__(self, settings: RealPolarSettings, causal: bool) -> None:
        super().__init__()
        self.pointwise = settings.interaction == "pointwise"
        self.amplitude = UPDATES[settings.update]
        self.token_mean = running_mean if causal else token_mean
        views = 2 if self.pointwise else 1
        self.psi_mag = Psi(settings, settings.d_complex, views, 1)
        self.psi_phase = Psi(settings, settings.d_complex, 2 * views, 2)
        self.step = nn.Parameter(torch.tensor(STEP))

    def forward(self, u: Tensor, p: Pair, mask: Tensor | None = None) -> tuple[Tensor, Pair]:
        m = u.exp()
        context = log_of(self.token_mean(m, mask))
        q = unit(Pair(self.token_mean(p.re, mask), self.token_mean(p.im, mask)))
        (change,) = self.psi_mag(u, context) if self.pointwise else self.psi_mag(context)
        re, im = self.psi_phase(*p, *q) if self.pointwise else self.psi_phase(*q)
        u = log_of(m + self.amplitude(context, change, self.step))
        return u, unit(add(p, scale(unit(Pair(re, im)), self.step)))


class RealPolar(nn.Module):
    """Any input that is, or is cut into, tokens -> scores."""

    Settings: ClassVar[type[RealPolarSettings]] = RealPolarSettings
    inputs: ClassVar[frozenset[str]] = INPUTS
    outputs: ClassVar[frozenset[str]] = OUTPUTS
    only: ClassVar[Mapping[str, frozenset[str]]] = ONLY
    causal: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    width: ClassVar[str] = "d_complex"
    has_phases: ClassVar[bool] = False

    @staticmethod
    def width_step(settings: RealPolarSettings) -> int:
        """d_complex must be a multiple of this: sinusoidal positions and the conv stem halve it."""
        return width_step(settings)

    @staticmethod
    def check(settings: RealPolarSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        check_twin(settings, settings.aggregation, task)

    @staticmethod
    def tiny() -> RealPolarSettings:
        """A small configuration for tests."""
        return RealPolarSettings(d_complex=8, n_layers=2, kan_hidden=4)

    def __init__(self, settings: RealPolarSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        d = settings.d_complex
        causal = resolved(settings.aggregation, task) == "causal"
        self.tokens = ComplexTokens(task, d, settings.embedding, settings.patch_size)
        self.place = POSITIONS[settings.positions](d, token_grid(task, settings.patch_size))
        self.blocks = nn.ModuleList(RealPolarBlock(settings, causal) for _ in range(settings.n_layers))
        self.norms = nn.ModuleList(LOG_NORMS[settings.norm](d) for _ in range(settings.n_layers))
        self.center = settings.center_magnitudes
        self.token_mean = running_mean if causal else token_mean
        self.pool = POLAR_POOLINGS[settings.pooling](d) if pools(settings, task) else None
        self.directions: nn.Parameter | None = None
        if settings.head_features == "magnitude":
            self.directions = nn.Parameter(torch.randn(2, d) * 0.5**0.5)
        self.head = Scores(settings, d if self.directions is not None else 3 * d, task)

    def mix(self, z: Pair, mask: Tensor | None = None) -> tuple[Tensor, Pair]:
        """Placed tokens (B, T, D) as pairs to the last block's u and p, u centred. `mask` (B, T) bool, True = real token."""
        u, p = polar(z)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            u, p = block(u, p, mask)
            u = norm(u)
        return u - self.token_mean(u, mask) if self.center else u, p

    def features(self, m: Tensor, c: Pair) -> Tensor:
        """Magnitudes and directions (..., D) to what scores are made of, (..., D) or (..., 3D)."""
        if self.directions is None:
            return torch.cat((m, c.re, c.im), -1)
        return m * (c.re * self.directions[0] + c.im * self.directions[1])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        u, p = self.mix(self.place(self.tokens(x)), mask)
        return Output(self.head(self.features(*((u.exp(), p) if self.pool is None else self.pool(u, p, mask)))))
