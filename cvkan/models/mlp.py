"""MLP: pixels side by side through linear layers with GELU; the floor that every other model must beat.

Symbols: B batch, P = C H W pixels, d = d_hidden.
    x (B, C, H, W) -> (B, P) -> n_layers x (linear, GELU, dropout) (B, d) -> linear (B, n_outputs)
Source: the multilayer perceptron; GELU as in the other models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

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
    """Images (B, C, H, W) -> scores (B, n_outputs)."""

    Settings: ClassVar[type[MLPSettings]] = MLPSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"image"})
    width: ClassVar[str] = "d_hidden"
    has_phases: ClassVar[bool] = False

    @staticmethod
    def width_step(settings: MLPSettings) -> int:
        """d_hidden may be any number."""
        return 1

    @staticmethod
    def check(settings: MLPSettings, task: Task) -> None:
        """Every setting works on every image."""

    @staticmethod
    def tiny() -> MLPSettings:
        """A small configuration for tests."""
        return MLPSettings(d_hidden=8, n_layers=2)

    def __init__(self, settings: MLPSettings, task: Task) -> None:
        super().__init__()
        sizes = [math.prod(task.shape), *[settings.d_hidden] * settings.n_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(settings.d_hidden, task.n_outputs)
        self.dropout = settings.dropout

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        assert mask is None, "images have no padding"
        h = x.flatten(1)
        for layer in self.layers:
            h = F.dropout(F.gelu(layer(h)), self.dropout, self.training)
        scores: Tensor = self.head(h)
        return Output(scores.float())
