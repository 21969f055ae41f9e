"""CV-KAN: tokens interact through a shared complex context, phase alignment and growing magnitudes, without softmax attention.

Symbols, with B batch, T tokens, D = d_complex channels, H = kan_hidden * mlp_expansion:
    Z (B, T, D)        complex tokens, the residual stream; float32 whatever autocast says
    A (B, 1 or T, D)   complex context, aggregate(Z)
    u = log|A|         log-magnitude; p = A/|A| unit phase
    psi_mag            MLP D -> H -> D on log-magnitudes (1 -> H -> 1 on each channel where shared)
    psi_phase          MLP 2D -> H -> 2D on (re p, im p) (2 -> H -> 2 where shared)
    s                  learned scalar, 0.1 at the start

A block (PolarizingBlock) with interaction broadcast:
    A = aggregate(Z)                                   (B, 1 or T, D)
    a = s exp(5 tanh(psi_mag(u)))                      gated_tanh
    a = exp(u + s psi_mag(u))                          residual_log
    Z <- Z + a psi_phase(p) / |psi_phase(p)|           (B, T, D)
pointwise: psi_mag reads (log|Z|, u), psi_phase reads (Z/|Z|, p), so a and the direction are (B, T, D). In residual_log u
stays the context's.

Model: image -> re and im embeddings (B, T, D) -> positions e^(i theta) -> n_layers x (block, norm) -> centred magnitudes
-> pooling (B, D) -> |pooled| (and re, im) -> linear head (B, n_outputs).
Source: the CV-KAN research log and the image log (conv stem, attention pooling).
Deviations: the first linear layer of psi reads its inputs apart instead of concatenated, which is the same map and
never expands a context to all tokens. Centring with `causal` aggregation subtracts the running mean, as a mean over all
tokens would show the future. Pooling and head run in float32: tokens are not bounded and overflow float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.aggregations import AGGREGATIONS
from cvkan.models.embeddings import EMBEDDINGS, POSITIONS, check_patches, patch_grid
from cvkan.models.norms import NORMS
from cvkan.models.output import Output, Pair
from cvkan.models.pairs import (
    add_along,
    gated_exponential,
    log_magnitude,
    magnitude,
    no_autocast,
    polar,
    running_mean,
    scale,
    token_mean,
    widen,
    widened,
)
from cvkan.models.poolings import POOLINGS
from cvkan.settings import Settings, one_of

Count = Annotated[int, Field(ge=1)]
GATE = 5.0
"""Bound on the log-amplitude of gated_tanh: amplitudes lie in s e^-5 ... s e^5."""
GAIN = 0.1
"""Gain of Xavier's initialisation of every psi, so that blocks start near the identity."""
STEP = 0.1
"""s at the start."""


def gated_tanh(u: Tensor, change: Tensor, s: Tensor) -> Tensor:
    """s exp(5 tanh(change)); u, the context's log-magnitude, is not used."""
    return gated_exponential(change, s, GATE)


def residual_log(u: Tensor, change: Tensor, s: Tensor) -> Tensor:
    """exp(u + s change)."""
    return (u + widen(change) * s).exp()


UPDATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"gated_tanh": gated_tanh, "residual_log": residual_log}
"""From the name of an update to the amplitude of a block's update, from (u, psi_mag, s)."""

INTERACTIONS = ("broadcast", "pointwise")
HEAD_FEATURES = ("magnitude", "both")


class CVKANSettings(Settings):
    """CV-KAN: tokens interact by aggregation, phase alignment and growth of magnitudes, without a softmax matrix."""

    name: Literal["cv_kan"] = "cv_kan"
    d_complex: Count = 64
    """Complex channels of a token."""
    n_layers: Annotated[int, Field(ge=1, le=512)] = 4
    """Polarizing blocks."""
    kan_hidden: Count = 32
    """Hidden units of psi_mag and psi_phase, before mlp_expansion."""
    mlp_expansion: Count = 1
    """Factor on kan_hidden."""
    mlp_layers: Annotated[int, Field(ge=2, le=3)] = 2
    """Linear layers of psi_mag and psi_phase: 2 or 3."""
    per_dim: bool = True
    """true: psi mixes channels (D -> D, 2D -> 2D); false: one small psi (1 -> 1, 2 -> 2) shared by all channels."""
    update: Annotated[str, one_of(UPDATES)] = "gated_tanh"
    """How a block's update grows: gated_tanh (bounded) or residual_log."""
    interaction: Annotated[str, one_of(INTERACTIONS)] = "broadcast"
    """broadcast: every token gets the context's update; pointwise: psi also reads the token, so each gets its own."""
    norm: Annotated[str, one_of(NORMS)] = "none"
    """Normalisation after each block: none, layer, rms, batch or logmag."""
    center_magnitudes: bool = True
    """Subtract the mean over tokens of log|z| after the last block."""
    aggregation: Annotated[str, one_of(AGGREGATIONS)] = "mean"
    """How tokens make the context: mean, magnitude_weighted, attention, local_window or causal."""
    window: Count = 3
    """Side of the window of local_window, in tokens; odd."""
    pooling: Annotated[str, one_of(POOLINGS)] = "attention"
    """How tokens make one vector: mean, max, attention or query."""
    head_features: Annotated[str, one_of(HEAD_FEATURES)] = "magnitude"
    """What the head reads: magnitude (|pooled|) or both (re and im too)."""
    head_hidden: Annotated[int, Field(ge=0)] = 0
    """Hidden units (GELU) of the head; 0 = a linear head."""
    embedding: Annotated[str, one_of(EMBEDDINGS)] = "conv"
    """How image patches become tokens: linear, or conv (two convolutions; patch_size 2 or 4)."""
    patch_size: Count = 2
    """Side of a patch in pixels; it divides the image."""
    positions: Annotated[str, one_of(POSITIONS)] = "sinusoidal"
    """Rotation of tokens by their place: sinusoidal, learned or none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a hidden unit of psi and a feature of the head."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "depth": "n_layers",
        "layers": "n_layers",
        "blocks": "n_layers",
        "width": "d_complex",
        "dim": "d_complex",
        "d_model": "d_complex",
        "channels": "d_complex",
        "hidden": "kan_hidden",
        "expansion": "mlp_expansion",
        "shared": "per_dim",
        "pool": "pooling",
        "aggregate": "aggregation",
        "context": "aggregation",
        "norm_type": "norm",
        "normalisation": "norm",
        "normalization": "norm",
        "embed": "embedding",
        "stem": "embedding",
        "patch": "patch_size",
        "position": "positions",
        "positional": "positions",
        "window_size": "window",
        "kernel_size": "window",
        "drop": "dropout",
        "head": "head_features",
        "center": "center_magnitudes",
    }


class PolarMLP(nn.Module):
    """psi: an MLP with GELU that reads n_in tensors (..., d) and writes n_out tensors (..., d).

    Inputs broadcast against each other after the first linear map, so a context (B, 1, d) beside tokens (B, T, d) costs
    one row per example.
    """

    def __init__(self, d: int, n_in: int, n_out: int, settings: CVKANSettings) -> None:
        super().__init__()
        hidden = settings.kan_hidden * settings.mlp_expansion
        self.d = d
        self.first = nn.Linear(n_in * d, hidden)
        self.middle = nn.Linear(hidden, hidden) if settings.mlp_layers == 3 else None
        self.last = nn.Linear(hidden, n_out * d)
        self.dropout = settings.dropout
        for layer in (self.first, self.middle, self.last):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight, gain=GAIN)
                nn.init.zeros_(layer.bias)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        weights = torch.split(self.first.weight, self.d, dim=1)
        h = F.linear(inputs[-1], weights[-1], self.first.bias)
        for x, weight in zip(inputs[:-1], weights, strict=False):
            h = F.linear(x, weight) + h
        h = F.gelu(h)
        if self.middle is not None:
            h = F.gelu(self.middle(h))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        rows = torch.split(self.last.weight, self.d)
        biases = torch.split(self.last.bias, self.d)
        return [F.linear(h, row, bias) for row, bias in zip(rows, biases, strict=True)]


class PolarizingBlock(nn.Module):
    """One block: Z (B, T, D) -> Z (B, T, D); see the head of this file."""

    def __init__(self, settings: CVKANSettings, grid: tuple[int, int]) -> None:
        super().__init__()
        self.per_dim = settings.per_dim
        self.pointwise = settings.interaction == "pointwise"
        self.amplitude = UPDATES[settings.update]
        self.aggregate = AGGREGATIONS[settings.aggregation](settings.d_complex, grid, settings.window)
        d = settings.d_complex if settings.per_dim else 1
        views = 2 if self.pointwise else 1
        self.psi_mag = PolarMLP(d, views, 1, settings)
        self.psi_phase = PolarMLP(d, 2 * views, 2, settings)
        self.step = nn.Parameter(torch.tensor(STEP))

    def _psi(self, mlp: nn.Module, *inputs: Tensor) -> list[Tensor]:
        """`mlp` over channels, or over each channel by itself."""
        if self.per_dim:
            outputs: list[Tensor] = mlp(*inputs)
            return outputs
        return [y.squeeze(-1) for y in mlp(*(x.unsqueeze(-1) for x in inputs))]

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        u, p = polar(self.aggregate(z, mask))
        if self.pointwise:
            own_u, own_p = polar(z)
            (change,) = self._psi(self.psi_mag, own_u, u)
            direction = self._psi(self.psi_phase, own_p.re, own_p.im, p.re, p.im)
        else:
            (change,) = self._psi(self.psi_mag, u)
            direction = self._psi(self.psi_phase, p.re, p.im)
        return add_along(z, self.amplitude(u, change, self.step), Pair(direction[0], direction[1]))


class CVKAN(nn.Module):
    """Images (B, C, H, W) -> scores (B, n_outputs) and the last tokens (B, T, D)."""

    Settings: ClassVar[type[CVKANSettings]] = CVKANSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"image"})
    width: ClassVar[str] = "d_complex"
    has_phases: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: CVKANSettings) -> int:
        """d_complex must be a multiple of this: sinusoidal positions and the conv stem halve it."""
        return 2 if settings.positions == "sinusoidal" or settings.embedding == "conv" else 1

    @staticmethod
    def check(settings: CVKANSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        check_patches(settings.embedding, settings.patch_size, task.shape)
        step = CVKAN.width_step(settings)
        if settings.d_complex % step:
            raise ValueError(f"model.d_complex {settings.d_complex} must be a multiple of {step} with these positions and embedding")
        if settings.window % 2 == 0:
            raise ValueError(f"model.window {settings.window} must be odd")
        grid = patch_grid(task.shape, settings.patch_size)
        if settings.aggregation == "local_window" and settings.window // 2 >= min(grid):
            raise ValueError(f"model.window {settings.window} is too wide for a grid of {grid[0]}x{grid[1]} tokens")
        if settings.aggregation == "causal" and settings.norm == "batch":
            raise ValueError("model.norm batch mixes all tokens and so cannot be used with model.aggregation causal")

    @staticmethod
    def tiny() -> CVKANSettings:
        """A small configuration for tests."""
        return CVKANSettings(d_complex=8, n_layers=2, kan_hidden=4)

    def __init__(self, settings: CVKANSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        d, grid = settings.d_complex, patch_grid(task.shape, settings.patch_size)
        embed = EMBEDDINGS[settings.embedding]
        self.embed_re = embed(task.shape[0], d, settings.patch_size)
        self.embed_im = embed(task.shape[0], d, settings.patch_size)
        self.place = POSITIONS[settings.positions](d, grid)
        self.blocks = nn.ModuleList(PolarizingBlock(settings, grid) for _ in range(settings.n_layers))
        self.norms = nn.ModuleList(NORMS[settings.norm](d) for _ in range(settings.n_layers))
        self.center = settings.center_magnitudes
        self.token_mean = running_mean if settings.aggregation == "causal" else token_mean
        self.pool = POOLINGS[settings.pooling](d)
        self.both = settings.head_features == "both"
        features = 3 * d if self.both else d
        self.head_hidden = nn.Linear(features, settings.head_hidden) if settings.head_hidden else None
        self.head = nn.Linear(settings.head_hidden or features, task.n_outputs)
        self.dropout = settings.dropout

    def embed(self, x: Tensor) -> Pair:
        """Images (B, C, H, W) to tokens (B, T, D) that know their place."""
        z: Pair = self.place(widened(Pair(self.embed_re(x), self.embed_im(x))))
        return z

    def mix(self, z: Pair, mask: Tensor | None = None) -> Pair:
        """Tokens (B, T, D) through all blocks and the centring of magnitudes. `mask` (B, T) bool, True = real token."""
        for block, norm in zip(self.blocks, self.norms, strict=True):
            z = norm(block(z, mask), mask)
        if self.center:
            z = scale(z, (-self.token_mean(log_magnitude(z), mask)).exp())
        return z

    def score(self, z: Pair, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, T, D) to scores (B, n_outputs) float32."""
        pooled: Pair = self.pool(z, mask)
        h = magnitude(pooled)
        if self.both:
            h = torch.cat((h, pooled.re, pooled.im), dim=-1)
        with no_autocast(h):
            if self.head_hidden is not None:
                h = F.gelu(self.head_hidden(h))
            if self.dropout:
                h = F.dropout(h, self.dropout, self.training)
            scores: Tensor = self.head(h)
        return scores.float()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        z = self.mix(self.embed(x), mask)
        return Output(self.score(z, mask), z)
