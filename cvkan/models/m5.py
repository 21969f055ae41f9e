"""M5: a convolutional network on raw waveforms.

Symbols: B clips of n samples x, w = d_channels, s = 16 where n >= 16,000, else 4; lengths are rounded down.
    conv 80, stride s, BN, ReLU, pool 4      (B, w, L / 4), L = (n - 80) / s + 1
    conv 3, BN, ReLU, pool 4                 (B, w, L / 16)
    conv 3, BN, ReLU, pool 4                 (B, 2w, L / 64)
    conv 3, BN, ReLU, pool 4                 (B, 4w, L / 256)
    mean over time, linear                   (B, n_outputs)
Source: Dai et al. 2016, table 1, M5 (w = 128, stride 4, at 8 kHz).
Deviations: stride 16 for clips of 16,000 samples and more, which are at twice the rate; a linear layer reads the mean, where the
paper has as many channels as classes; convolutions have no bias, which batch norm would cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models.output import Output
from cvkan.models.pairs import no_autocast, widen
from cvkan.settings import Settings

KERNEL = 80
POOL = 4
WIDTHS = (1, 1, 2, 4)
"""Channels of the four convolutions, over d_channels."""
LONG = 16_000
"""Samples from which the first convolution strides by 16 instead of 4."""
SHORTEST = KERNEL + 4 * (POOL ** len(WIDTHS) - 1)
"""Samples that leave one step after the last pooling."""


class M5Settings(Settings):
    """Convolutional network on raw waveforms (Dai et al. 2016)."""

    name: Literal["m5"] = "m5"
    d_channels: Annotated[int, Field(ge=1)] = 32
    """Channels of the first two convolutions; the others have twice and four times as many."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "width": "d_channels",
        "channels": "d_channels",
        "dim": "d_channels",
        "d_model": "d_channels",
        "d_complex": "d_channels",
        "n_channel": "d_channels",
    }


class M5(nn.Module):
    """Waveforms (B, n) -> scores (B, n_outputs)."""

    Settings: ClassVar[type[M5Settings]] = M5Settings
    inputs: ClassVar[frozenset[str]] = frozenset({"waveform"})
    outputs: ClassVar[frozenset[str]] = frozenset({"classes"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {}
    causal: ClassVar[bool] = False
    width: ClassVar[str] = "d_channels"
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: M5Settings) -> int:
        """d_channels may be any number."""
        return 1

    @staticmethod
    def check(settings: M5Settings, task: Task) -> None:
        """Raises ValueError for clips that the poolings would use up."""
        if task.shape[0] < SHORTEST:
            raise ValueError(f"model.name m5 needs clips of at least {SHORTEST} samples; these have {task.shape[0]}")

    @staticmethod
    def tiny() -> M5Settings:
        """A small configuration for tests."""
        return M5Settings(d_channels=4)

    def __init__(self, settings: M5Settings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        widths = [settings.d_channels * factor for factor in WIDTHS]
        stride = 16 if task.shape[0] >= LONG else 4
        first = nn.Conv1d(1, widths[0], KERNEL, stride=stride, bias=False)
        others = [nn.Conv1d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)]
        self.convs = nn.ModuleList([first, *others])
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.head = nn.Linear(widths[-1], task.n_outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        assert mask is None, "clips have no padding"
        h = x.unsqueeze(-2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = pooled(torch.relu(norm(conv(h))))
        mean = widen(h).mean(-1)
        with no_autocast(mean):
            scores: Tensor = self.head(mean)
        return Output(scores.float())


def pooled(h: Tensor) -> Tensor:
    """The largest of every POOL steps: (..., n) -> (..., n / POOL), rounded down."""
    # Not max_pool1d, whose gradient has no deterministic kernel on GPUs.
    steps = h.shape[-1] // POOL * POOL
    return h[..., :steps].reshape(*h.shape[:-1], -1, POOL).amax(-1)
