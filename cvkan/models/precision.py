"""Where float32 is kept whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """`x` in float32 where it is float16 or bfloat16, otherwise `x` itself."""
    return x.float() if x.dtype in HALVES else x


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products of widened tensors on x's device are not narrowed again."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind != "meta" and torch.is_autocast_enabled(kind) else nullcontext()
