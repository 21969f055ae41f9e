"""What a domain hands to models and learner: the task, and its data as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor


@dataclass(frozen=True)
class Task:
    """What a model must do; known without decoding any data."""

    input: Literal["image"]
    """Kind of input; a model names the kinds that it can use."""
    shape: tuple[int, ...]
    """Shape of one example; image: (channels, height, width)."""
    output: Literal["classes"]
    n_outputs: int
    """Number of classes."""
    metric: str = "accuracy"
    """The headline metric; checkpoints are chosen by it on the validation part."""
    direction: Literal["max", "min"] = "max"


@dataclass(frozen=True)
class Split:
    """One part of a data set: raw inputs x (N, ...) as they are stored, targets y (N,) int64."""

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
    """Raw inputs (B, ...) on any device to model inputs (B, *task.shape) float32; no randomness."""
    augment: Callable[[Tensor, Generator], Tensor] | None
    """Model inputs of the training part to augmented ones, whole batch at once, drawing from the generator (on x's device)."""
