"""What every model class offers."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from cvkan.domains.task import Task
from cvkan.settings import Settings


class ModelClass(Protocol):
    """A class of models: an `nn.Module` whose `forward(x, mask=None)` returns an `Output`. `settings` is its own Settings."""

    @property
    def Settings(self) -> type[Settings]:
        """The settings of `model: {name: ...}`."""
        ...

    @property
    def inputs(self) -> frozenset[str]:
        """The kinds of `Task.input` that the model can use."""
        ...

    @property
    def width(self) -> str:
        """The setting that `match` may solve; the number of parameters grows with it."""
        ...

    @property
    def has_phases(self) -> bool:
        """Whether `Output.tokens` is there for phase regularisers."""
        ...

    def width_step(self, settings: Any) -> int:
        """The width must be a multiple of this."""
        ...

    def check(self, settings: Any, task: Task) -> None:
        """ValueError, naming the setting, for settings that cannot work on the task."""
        ...

    def tiny(self) -> Any:
        """Small settings for tests."""
        ...

    def __call__(self, settings: Any, task: Task) -> nn.Module:
        """A freshly initialised model; its draws come from torch's global generator."""
        ...
