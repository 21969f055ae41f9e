"""What a domain hands to models and learner: the task, and its data as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Generator, Tensor

Input = Literal["image", "waveform", "complex", "series", "tokens"]
OutputKind = Literal["classes", "token_classes", "next_token", "forecast"]


@dataclass(frozen=True)
class Task:
    """What a model must do; known without decoding any data."""

    input: Input
    """Kind of input; a model names the kinds that it can use."""
    shape: tuple[int, ...]
    """Shape of one example as a model gets it. image: (channels, height, width); waveform: (samples,); complex: (tokens,
    bins, 2), re and im last; series: (steps, channels); all float32. tokens: (tokens,) int64 ids below `vocabulary`."""
    output: OutputKind
    """What is asked. classes: one class per example; token_classes: one per token; next_token: the same, of the token that
    follows; forecast: the next `horizon` steps of a series."""
    n_outputs: int
    """Classes; for next_token the vocabulary; for forecast the channels."""
    metric: str = "accuracy"
    """The headline metric; checkpoints are chosen by it on the validation part."""
    direction: Literal["max", "min"] = "max"
    causal: bool = False
    """Whether the scores of a token must not depend on tokens after it."""
    vocabulary: int = 0
    """Ids of a tokens input: 0 ... vocabulary - 1."""
    padding: int | None = None
    """The id of tokens that only fill up an example; None where there are none."""
    horizon: int = 0
    """Steps of a forecast."""
    reversible: bool = False
    """Whether each series is normalised by its own mean and deviation, and the forecast scaled back (Kim et al. 2022)."""
    further: tuple[str, ...] = ()
    """Names of further test parts; their figures are test_METRIC_NAME."""
    longest: int = 0
    """Tokens of the longest example of any part, where that is more than shape[0]."""

    @property
    def length(self) -> int:
        """Tokens of the longest example of any part, for inputs that are sequences of tokens."""
        return max(self.shape[0], self.longest)


@dataclass(frozen=True)
class Split:
    """One part of a data set: raw inputs x (N, ...) as they are stored, targets y (N, ...).

    Targets: classes (N,); token_classes and next_token (N, T), where a negative one is not asked for; of any integer type.
    forecast (N, horizon, channels) float32. Both may be overlapping views of one series.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A decoded data set. Tensors may be memory-mapped: copy before writing."""

    task: Task
    train: Split
    validation: Split
    test: Split
    hash: str
    """SHA-256 (hex) of the decoded content and split; part of every trial's key."""
    encode: Callable[[Tensor], Tensor]
    """Raw inputs (B, ...) on any device to model inputs (B, *task.shape); no randomness."""
    augment: Callable[[Tensor, Generator], Tensor] | None = None
    """Model inputs of the training part to augmented ones, whole batch at once, drawing from the generator (on x's device)."""
    further: Mapping[str, Split] = field(default_factory=dict)
    """Further test parts by the names in `task.further`; their examples may have another length."""
