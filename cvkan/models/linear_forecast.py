"""DLinear and NLinear: linear maps along time, the baselines that a forecasting model must beat.

Symbols: x (B, L, C) a series, y (B, H, C) its forecast, M the moving average over `kernel` steps, A and A' linear maps
along time, L -> H, shared by all channels or one for each (`individual`).
    DLinear    y = A (x - M x) + A' M x        M repeats the first and the last step beyond the ends
    NLinear    y = A (x - x_L) + x_L           x_L the last step
Source: Zeng et al. 2023.
Deviation: everything runs in float32 whatever autocast says, as these maps are too small to gain from halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.output import Output
from cvkan.models.pairs import no_autocast, widen
from cvkan.settings import Settings


class NLinearSettings(Settings):
    """NLinear: one linear map along time of what differs from the last step (Zeng et al. 2023)."""

    name: Literal["nlinear"] = "nlinear"
    individual: bool = False
    """A map for every channel, instead of one that all channels share."""

    synonyms: ClassVar[Mapping[str, str]] = {"per_channel": "individual", "shared": "individual"}


class DLinearSettings(Settings):
    """DLinear: a linear map along time of the moving average, and one of the rest (Zeng et al. 2023)."""

    name: Literal["dlinear"] = "dlinear"
    kernel: Annotated[int, Field(ge=1)] = 25
    """Steps of the moving average; odd."""
    individual: bool = False
    """Maps for every channel, instead of those that all channels share."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "kernel_size": "kernel",
        "moving_avg": "kernel",
        "window": "kernel",
        "per_channel": "individual",
        "shared": "individual",
    }


class AlongTime(nn.Module):
    """x (B, L, C) -> (B, H, C): a linear map L -> H, or one for each channel; initialised as nn.Linear."""

    def __init__(self, task: Task, individual: bool) -> None:
        super().__init__()
        length, channels = task.shape
        self.shared = None if individual else nn.Linear(length, task.horizon)
        if individual:
            bound = length**-0.5
            self.weight = nn.Parameter(torch.empty(channels, task.horizon, length).uniform_(-bound, bound))
            self.bias = nn.Parameter(torch.empty(task.horizon, channels).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if self.shared is not None:
            shared: Tensor = self.shared(x.transpose(-2, -1))
            return shared.transpose(-2, -1)
        return torch.einsum("blc,chl->bhc", x, self.weight) + self.bias


def moving_average(x: Tensor, kernel: int) -> Tensor:
    """Mean of x (B, L, C) over `kernel` (odd) steps around each step, the ends repeated -> (B, L, C)."""
    beyond = kernel // 2
    first, last = x[:, :1].expand(-1, beyond, -1), x[:, -1:].expand(-1, beyond, -1)
    padded = torch.cat((first, x, last), dim=1).transpose(1, 2)
    return F.avg_pool1d(padded, kernel, stride=1).transpose(1, 2)


class DLinear(nn.Module):
    """A series -> its forecast. Its size is set by the data set alone, so `match` cannot solve a width."""

    Settings: ClassVar[type[DLinearSettings]] = DLinearSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"series"})
    outputs: ClassVar[frozenset[str]] = frozenset({"forecast"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {}
    causal: ClassVar[bool] = False
    width: ClassVar[str | None] = None
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: DLinearSettings) -> int:
        """There is no width."""
        return 1

    @staticmethod
    def check(settings: DLinearSettings, task: Task) -> None:
        """Raises ValueError where the moving average has no middle."""
        if settings.kernel % 2 == 0:
            raise ValueError(f"model.kernel {settings.kernel} must be odd")

    @staticmethod
    def tiny() -> DLinearSettings:
        """A small configuration for tests."""
        return DLinearSettings(kernel=3)

    def __init__(self, settings: DLinearSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        self.kernel = settings.kernel
        self.rest = AlongTime(task, settings.individual)
        self.trend = AlongTime(task, settings.individual)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        assert mask is None, "series have no padding"
        with no_autocast(x):
            x = widen(x)
            trend = moving_average(x, self.kernel)
            scores: Tensor = self.rest(x - trend) + self.trend(trend)
        return Output(scores.float())


class NLinear(nn.Module):
    """A series -> its forecast. Its size is set by the data set alone, so `match` cannot solve a width."""

    Settings: ClassVar[type[NLinearSettings]] = NLinearSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"series"})
    outputs: ClassVar[frozenset[str]] = frozenset({"forecast"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {}
    causal: ClassVar[bool] = False
    width: ClassVar[str | None] = None
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: NLinearSettings) -> int:
        """There is no width."""
        return 1

    @staticmethod
    def check(settings: NLinearSettings, task: Task) -> None:
        """Every setting works on every series."""

    @staticmethod
    def tiny() -> NLinearSettings:
        """A small configuration for tests."""
        return NLinearSettings()

    def __init__(self, settings: NLinearSettings, task: Task) -> None:
        super().__init__()
        self.map = AlongTime(task, settings.individual)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        assert mask is None, "series have no padding"
        with no_autocast(x):
            x = widen(x)
            last = x[:, -1:]
            scores: Tensor = self.map(x - last) + last
        return Output(scores.float())
