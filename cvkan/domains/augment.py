"""Image batches on their device: from stored bytes to model inputs, and random crops and flips of whole batches.

Nothing here waits for the device or loops over a batch, and the same generator state gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

Augmentation = Literal["none", "crop_flip", "flip"]

PADDING = 4
"""Pixels around an image before it is cropped back to its size (He et al. 2016, section 4.2)."""


class Encode:
    """(x / 255 - mean) / std per channel: uint8 (..., C, H, W) to float32 of the same shape, on any device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean` and `std` (C,) of the training part, of pixels in [0, 1]; a constant channel (std 0) is only centred."""
        divisor = [value if value > 0 else 1.0 for value in std]
        self._scale = torch.tensor([1 / (255 * d) for d in divisor], dtype=torch.float32).view(-1, 1, 1)
        self._shift = torch.tensor([-m / d for m, d in zip(mean, divisor, strict=True)], dtype=torch.float32).view(-1, 1, 1)
        self._by_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        scale, shift = self.constants(x.device)
        return x.to(torch.float32).mul(scale).add_(shift)

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and shift (C, 1, 1); the shift is the code of a black pixel. Copied to a device once: a copy a batch would wait for it."""
        if device not in self._by_device:
            self._by_device[device] = (self._scale.to(device), self._shift.to(device))
        return self._by_device[device]


def augmentation(name: Augmentation, encode: Encode) -> Callable[[Tensor, Generator], Tensor] | None:
    """The function (x (B, C, H, W) encoded, generator on x's device) -> (B, C, H, W); None for "none"."""
    if name == "none":
        return None
    return flip if name == "flip" else lambda x, generator: crop_flip(x, generator, encode.constants(x.device)[1])


def flip(x: Tensor, generator: Generator) -> Tensor:
    """Mirrors each image (B, C, H, W) left to right with probability 1/2."""
    return torch.where(_coins(x, generator)[:, None, None, None], x.flip(3), x)


def crop_flip(x: Tensor, generator: Generator, black: Tensor) -> Tensor:
    """Crops each image (B, C, H, W) out of its padded self, then mirrors it with probability 1/2.

    The padding is `black` (C, 1, 1), the code of a zero pixel, as where one pads before normalising (torchvision's RandomCrop).
    """
    batch, channels, height, width = x.shape
    offsets = torch.randint(-PADDING, PADDING + 1, (2, batch, 1), generator=generator, device=x.device)
    rows = torch.arange(height, device=x.device) + offsets[0]  # (B, H): the source row of every target row
    columns = torch.arange(width, device=x.device) + offsets[1]  # (B, W)
    columns = torch.where(_coins(x, generator)[:, None], columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]  # (B, H, W)
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]  # (B, H, W)
    pixels = x.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, channels, -1)).view_as(x)
    return torch.where(inside[:, None], pixels, black)


def _coins(x: Tensor, generator: Generator) -> Tensor:
    return torch.randint(0, 2, (len(x),), generator=generator, device=x.device).bool()
