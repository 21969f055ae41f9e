"""Augmentation of whole batches of audio on their device.

Nothing here waits for the device or loops over a batch, and the same generator state gives the same bits.
Source: SpecAugment (Park et al. 2019) with one mask of frames and one of bins, without time warping.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

SHIFT = 0.1
"""Largest shift in time, as a share of the clip."""
MASK = 0.2
"""Widest mask, as a share of the frames or bins."""


def shift(x: Tensor, generator: Generator) -> Tensor:
    """Moves each clip (B, n) or its frames (B, n, ...) by up to 0.1 n steps in time; what comes in is zero."""
    batch, steps = x.shape[:2]
    furthest = int(SHIFT * steps)
    offsets = torch.randint(-furthest, furthest + 1, (batch, 1), generator=generator, device=x.device)
    source = torch.arange(steps, device=x.device) + offsets  # (B, n): the step that every step comes from
    inside = (source >= 0) & (source < steps)
    source = source.clamp(0, steps - 1) + steps * torch.arange(batch, device=x.device)[:, None]
    moved = x.flatten(0, 1).index_select(0, source.flatten()).view_as(x)
    return moved.mul_(inside.view(batch, steps, *(1,) * (x.ndim - 2)))


def shift_mask(x: Tensor, generator: Generator) -> Tensor:
    """`shift` of frames x (B, F, K, 2), then zero in one run of up to 0.2 F frames and one of up to 0.2 K bins."""
    x = shift(x, generator)
    kept_frames = ~_runs(len(x), x.shape[1], generator, x.device)
    kept_bins = ~_runs(len(x), x.shape[2], generator, x.device)
    return x.mul_(kept_frames[:, :, None, None]).mul_(kept_bins[:, None, :, None])


def _runs(batch: int, steps: int, generator: Generator, device: torch.device) -> Tensor:
    """(B, n) bool: in each row one run of 0 ... 0.2 n steps, anywhere."""
    draws = torch.rand(2, batch, 1, generator=generator, device=device)
    width = (draws[0] * (int(MASK * steps) + 1)).floor()
    start = (draws[1] * (steps - width + 1)).floor()
    places = torch.arange(steps, device=device)
    return (places >= start) & (places < start + width)
