"""What every model class offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.settings import Settings


class ModelClass(Protocol):
    """A class of models: an `nn.Module` whose `forward(x, mask=None)` returns an `Output`. `settings` is its own Settings.

    x (B, *task.shape) is as `Task.input` says; sequences may also be shorter or longer than task.shape, up to task.length.
    mask (B, T) bool is true at real tokens, None where all are; padding stands at the end.
    """

    @property
    def Settings(self) -> type[Settings]:
        """The settings of `model: {name: ...}`."""
        ...

    @property
    def inputs(self) -> frozenset[str]:
        """The kinds of `Task.input` that the model can use."""
        ...

    @property
    def outputs(self) -> frozenset[str]:
        """The kinds of `Task.output` that the model can give."""
        ...

    @property
    def causal(self) -> bool:
        """Whether the model can serve a causal task: scores of a token that do not depend on later tokens."""
        ...

    @property
    def only(self) -> Mapping[str, frozenset[str]]:
        """Settings that matter for some kinds of input or output, or beside other settings alone.

        {"patch_size": {"image"}, "window_size": {"window=hard"}}: each with the kinds, or values of settings, of which one must be there.
        """
        ...

    @property
    def width(self) -> str | None:
        """The setting that `match` may solve; the number of parameters grows with it. None where the task alone sets the size."""
        ...

    @property
    def has_phases(self) -> bool:
        """Whether `Output.tokens` is there for phase regularisers."""
        ...

    @property
    def stacks(self) -> bool:
        """Whether members of a pack may run as one stacked model (torch.func.vmap); torch has no rule for its LSTM and GRU kernels."""
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


@runtime_checkable
class Streaming(Protocol):
    """A model that reads one token after another, at a cost that does not depend on how many came before.

    The scores of a token equal those that `forward` gives it when it reads all tokens at once.
    """

    def start(self, batch: int) -> Any:
        """The state of `batch` sequences before their first token."""
        ...

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The next token of each sequence, as one of forward's: ids (B,), or (B, ...). Its scores (B, n_outputs) and the state after it."""
        ...
