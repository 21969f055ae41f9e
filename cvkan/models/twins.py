"""What CV-KAN and its real-valued twins have in common: settings, the psi MLPs, checks, and the way from features to scores.

Symbols: D = d_complex channels, H = kan_hidden * mlp_expansion, T tokens, F features, n = task.n_outputs, H_f = task.horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.embeddings import EMBEDDINGS, POSITIONS, check_tokens
from cvkan.models.pairs import no_autocast
from cvkan.models.poolings import POOLINGS
from cvkan.settings import Settings, one_of

Count = Annotated[int, Field(ge=1)]
GAIN = 0.1
"""Gain of Xavier's initialisation of CV-KAN's psi, so that blocks start near the identity."""
STEP = 0.1
"""s, the learned scalar of an update, at the start."""

INTERACTIONS = ("broadcast", "pointwise")
READOUTS = ("pooled", "tokens")
TWIN_AGGREGATIONS = ("auto", "mean", "causal")
INPUTS = frozenset({"image", "complex", "series", "tokens"})
OUTPUTS = frozenset({"classes", "token_classes", "next_token", "forecast"})
ONLY: Mapping[str, frozenset[str]] = {
    "embedding": frozenset({"image"}),
    "patch_size": frozenset({"image"}),
    "readout": frozenset({"forecast"}),
    "pooling": frozenset({"classes", "forecast"}),
}


class TwinSettings(Settings):
    """The settings that CV-KAN and its real-valued twins share."""

    d_complex: Count = 64
    """Channels of a token, each a complex number or, in the real-valued twins, two real ones."""
    n_layers: Annotated[int, Field(ge=1, le=512)] = 4
    """Blocks."""
    kan_hidden: Count = 32
    """Hidden units of psi, before mlp_expansion."""
    mlp_expansion: Count = 1
    """Factor on kan_hidden."""
    mlp_layers: Annotated[int, Field(ge=2, le=3)] = 2
    """Linear layers of psi: 2 or 3."""
    per_dim: bool = True
    """true: psi mixes channels; false: one small psi shared by all channels."""
    interaction: Annotated[str, one_of(INTERACTIONS)] = "broadcast"
    """broadcast: every token gets the context's update; pointwise: psi also reads the token, so each gets its own."""
    pooling: Annotated[str, one_of(POOLINGS)] = "attention"
    """How tokens make one vector: mean, max, attention or query."""
    readout: Annotated[str, one_of(READOUTS)] = "pooled"
    """How a forecast is read: pooled (one vector gives all steps) or tokens (a linear map along time, then each step's channels)."""
    head_hidden: Annotated[int, Field(ge=0)] = 0
    """Hidden units (GELU) of the last layer; 0 = a linear one."""
    embedding: Annotated[str, one_of(EMBEDDINGS)] = "conv"
    """How image patches become tokens: linear, or conv (two convolutions; patch_size 2 or 4)."""
    patch_size: Count = 2
    """Side of a patch in pixels; it divides the image."""
    positions: Annotated[str, one_of(POSITIONS)] = "sinusoidal"
    """Rotation of tokens by their place: sinusoidal, learned or none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a hidden unit of psi and a feature of the last layer."""

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
        "drop": "dropout",
    }


class TwinWithMeans(TwinSettings):
    """The settings that only the real-valued twins share."""

    aggregation: Annotated[str, one_of(TWIN_AGGREGATIONS)] = "auto"
    """How tokens make the context: mean, or causal (the running mean); auto is what the task asks."""


def resolved(aggregation: str, task: Task) -> str:
    """The aggregation that `auto` stands for on a task, or the one that is named."""
    if aggregation == "auto":
        return "causal" if task.causal else "mean"
    return aggregation


def width_step(settings: TwinSettings) -> int:
    """d_complex must be a multiple of this on images: sinusoidal positions and the conv stem halve it."""
    return 2 if settings.positions == "sinusoidal" or settings.embedding == "conv" else 1


def check_twin(settings: TwinSettings, aggregation: str, task: Task) -> None:
    """Raises ValueError, naming the setting, where these settings cannot work on this task."""
    check_tokens(task, settings.embedding, settings.patch_size, settings.positions)
    step = width_step(settings)
    if task.input == "image" and settings.d_complex % step:
        raise ValueError(f"model.d_complex {settings.d_complex} must be a multiple of {step} with these positions and embedding")
    if task.causal and resolved(aggregation, task) != "causal":
        raise ValueError(f"model.aggregation {aggregation} would show a token what follows it; this data set needs causal")


class Psi(nn.Module):
    """psi: an MLP with GELU that reads n_in tensors (..., D) and writes n_out tensors (..., D).

    Over all channels at once (n_in D -> H -> n_out D), or with `per_dim` false over each by itself (n_in -> H -> n_out).
    Inputs broadcast against each other after the first linear map, so a context (B, 1, D) beside tokens (B, T, D) costs
    one row per example. Linear weights are Xavier's with the given gain, biases 0.
    """

    def __init__(self, settings: TwinSettings, d: int, n_in: int, n_out: int, gain: float = GAIN) -> None:
        super().__init__()
        hidden = settings.kan_hidden * settings.mlp_expansion
        self.per_dim = settings.per_dim
        self.d = d if settings.per_dim else 1
        self.first = nn.Linear(n_in * self.d, hidden)
        self.middle = nn.Linear(hidden, hidden) if settings.mlp_layers == 3 else None
        self.last = nn.Linear(hidden, n_out * self.d)
        self.dropout = settings.dropout
        for layer in (self.first, self.middle, self.last):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight, gain=gain)
                nn.init.zeros_(layer.bias)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        if self.per_dim:
            return self._mixed(*inputs)
        return [y.squeeze(-1) for y in self._mixed(*(x.unsqueeze(-1) for x in inputs))]

    def _mixed(self, *inputs: Tensor) -> list[Tensor]:
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


def pools(settings: TwinSettings, task: Task) -> bool:
    """Whether tokens are pooled to one vector before scores are made."""
    return task.output == "classes" or (task.output == "forecast" and settings.readout == "pooled")


class Scores(nn.Module):
    """Features to scores as `Output` says, float32: linear F -> n, or F -> head_hidden, GELU, -> n.

    classes, pooled                   (B, F) -> (B, n)
    token_classes, next_token         (B, T, F) -> (B, T, n)
    forecast, pooled                  (B, F) -> (B, H_f n) -> (B, H_f, n)
    forecast, tokens                  (B, T, F) -> linear T -> H_f along time (B, H_f, F) -> (B, H_f, n)
    """

    def __init__(self, settings: TwinSettings, features: int, task: Task) -> None:
        super().__init__()
        steps = task.horizon if task.output == "forecast" else 0
        pooled = pools(settings, task)
        self.steps = steps if pooled else 0
        self.time = nn.Linear(task.shape[0], steps) if steps and not pooled else None
        self.hidden = nn.Linear(features, settings.head_hidden) if settings.head_hidden else None
        self.last = nn.Linear(settings.head_hidden or features, task.n_outputs * max(1, self.steps))
        self.dropout = settings.dropout

    def forward(self, h: Tensor) -> Tensor:
        with no_autocast(h):
            if self.time is not None:
                h = self.time(h.transpose(-2, -1)).transpose(-2, -1)
            if self.hidden is not None:
                h = F.gelu(self.hidden(h))
            if self.dropout:
                h = F.dropout(h, self.dropout, self.training)
            scores: Tensor = self.last(h)
        if self.steps:
            scores = scores.reshape(len(scores), self.steps, -1)
        return scores.float()
