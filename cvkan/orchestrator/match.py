"""Equal size: the width at which a model has the parameters that a sweep asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cvkan.domains.task import Task
from cvkan.models import build
from cvkan.settings import Settings

MAX_WIDTH = 1 << 20


@dataclass(frozen=True)
class Width:
    """A solved width and the size that it gives."""

    value: int
    size: int


def count_parameters(model: str, settings: Settings, task: Task) -> int:
    """Trainable parameters of a model; it is built without memory or arithmetic (torch's meta device)."""
    with torch.device("meta"):
        module = build(model, settings, task)
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def solve(size: Callable[[int], int], target: int, step: int = 1) -> Width:
    """The multiple of `step` whose size is nearest to `target`, the smaller one of two equally near.

    `size` must grow with the width. Sizes are close to quadratic in the width, so the bracket is cut where a straight
    line in sqrt(size) meets the target: about half a dozen calls, each of which builds a model. Every third cut is in
    the middle, so that a size of another shape takes O(log width) calls too.
    """
    low, high = 1, 1  # in steps
    sizes = {low: size(low * step)}
    while sizes[high] < target and high * step < MAX_WIDTH:
        low, high = high, high * 4
        sizes[high] = size(high * step)
    cuts = 0
    while high - low > 1 and sizes[high] >= target:
        cuts += 1
        share = (target**0.5 - sizes[low] ** 0.5) / (sizes[high] ** 0.5 - sizes[low] ** 0.5)
        cut = (low + high) // 2 if cuts % 3 == 0 else low + round(share * (high - low))
        cut = min(max(cut, low + 1), high - 1)
        sizes[cut] = size(cut * step)
        low, high = (cut, high) if sizes[cut] < target else (low, cut)
    best = min(sizes, key=lambda width: (abs(sizes[width] - target), width))
    return Width(best * step, sizes[best])
