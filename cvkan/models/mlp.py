"""MLP: the whole input side by side through linear layers with GELU; the floor that every other model must beat.

Symbols: B batch, P numbers of one example, d = d_hidden, S scores of one example.
    x (B, ...) -> (B, P) -> n_layers x (linear, GELU, dropout) (B, d) -> linear (B, S), in the task's shape
Token ids are mapped to d_token channels by a table first; padding counts as zeros.
Source: the multilayer perceptron; GELU as in the other models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.output import Output
from cvkan.settings import Settings

Count = Annotated[int, Field(ge=1)]


class MLPSettings(Settings):
    """Multilayer perceptron on the flattened input: the floor that every other model must beat."""

    name: Literal["mlp"] = "mlp"
    d_hidden: Count = 256
    """Units of a hidden layer."""
    n_layers: Annotated[int, Field(ge=1, le=512)] = 2
    """Hidden layers."""
    d_token: Count = 32
    """Channels of a token id."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a hidden unit."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "depth": "n_layers",
        "layers": "n_layers",
        "width": "d_hidden",
        "hidden": "d_hidden",
        "dim": "d_hidden",
        "d_model": "d_hidden",
        "d_complex": "d_hidden",
    }


class MLP(nn.Module):
    """Any input of one fixed size -> scores. It has no order of tokens, so it cannot serve a causal task."""

    Settings: ClassVar[type[MLPSettings]] = MLPSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"image", "waveform", "complex", "series", "tokens"})
    outputs: ClassVar[frozenset[str]] = frozenset({"classes", "token_classes", "forecast"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {"d_token": frozenset({"tokens"})}
    causal: ClassVar[bool] = False
    width: ClassVar[str] = "d_hidden"
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: MLPSettings) -> int:
        """d_hidden may be any number."""
        return 1

    @staticmethod
    def check(settings: MLPSettings, task: Task) -> None:
        """Raises ValueError where examples differ in length."""
        if task.input != "image" and task.length > task.shape[0]:
            raise ValueError(f"model.name mlp needs examples of one length, and the data set tests {task.length} tokens")

    @staticmethod
    def tiny() -> MLPSettings:
        """A small configuration for tests."""
        return MLPSettings(d_hidden=8, n_layers=2)

    def __init__(self, settings: MLPSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        self.embed = nn.Embedding(task.vocabulary, settings.d_token) if task.input == "tokens" else None
        n_inputs = math.prod(task.shape) * (settings.d_token if self.embed is not None else 1)
        self.shape = {"classes": (-1,), "token_classes": (task.shape[0], -1), "forecast": (task.horizon, -1)}[task.output]
        sizes = [n_inputs, *[settings.d_hidden] * settings.n_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(settings.d_hidden, task.n_outputs * math.prod(self.shape[:-1]))
        self.dropout = settings.dropout
        self.output = task.output
        self.n_tokens = task.shape[0]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h = x if self.embed is None else self.embed(x)
        if mask is not None:
            h = h.masked_fill(~mask.reshape(*mask.shape, *[1] * (h.dim() - 2)), 0.0)
        h = self._filled(h).flatten(1)
        for layer in self.layers:
            h = F.dropout(F.gelu(layer(h)), self.dropout, self.training)
        scores: Tensor = self.head(h)
        scores = scores.float().reshape(len(x), *self.shape)
        return Output(scores[:, : x.shape[1]] if self.output == "token_classes" else scores)

    def _filled(self, h: Tensor) -> Tensor:
        """h (B, T, ...) with zeros after its last token, where a sequence is shorter than those the model was built for."""
        missing = self.n_tokens - h.shape[1]
        return torch.cat((h, h.new_zeros(len(h), missing, *h.shape[2:])), dim=1) if missing else h
