"""ResNet for small images: three stages of residual blocks on one full-resolution convolution.

Symbols: B batch, C x H x W image, w = d_channels, n = blocks_per_stage.
    conv 3x3, BN, ReLU                     (B, w, H, W)
    stage 1: n blocks                      (B, w, H, W)
    stage 2: n blocks, the first stride 2  (B, 2w, H/2, W/2)
    stage 3: n blocks, the first stride 2  (B, 4w, H/4, W/4), sizes rounded up
    mean over positions, linear            (B, n_outputs)
    block: y = ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x))
Source: He et al. 2016, section 4.2 (6n + 2 layers; n = 3, w = 16 is ResNet-20).
Deviation: where the shape changes the shortcut is a 1x1 convolution with BN (the paper's option B) instead of zero padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models.output import Output
from cvkan.models.pairs import no_autocast, widen
from cvkan.settings import Settings

Count = Annotated[int, Field(ge=1)]


class ResNetSettings(Settings):
    """Small residual network for images."""

    name: Literal["resnet"] = "resnet"
    d_channels: Count = 16
    """Channels of the first stage; the others have twice and four times as many."""
    blocks_per_stage: Annotated[int, Field(ge=1, le=512)] = 1
    """Residual blocks in each of the three stages; 6 n + 2 layers."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "depth": "blocks_per_stage",
        "n_layers": "blocks_per_stage",
        "layers": "blocks_per_stage",
        "blocks": "blocks_per_stage",
        "width": "d_channels",
        "channels": "d_channels",
        "dim": "d_channels",
        "d_model": "d_channels",
        "d_complex": "d_channels",
    }


class ResidualBlock(nn.Module):
    """(B, before, H, W) -> (B, after, H/stride, W/stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(after)
        self.conv_2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm_1(self.conv_1(x)))
        return torch.relu(self.norm_2(self.conv_2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images (B, C, H, W) -> scores (B, n_outputs)."""

    Settings: ClassVar[type[ResNetSettings]] = ResNetSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"image"})
    outputs: ClassVar[frozenset[str]] = frozenset({"classes"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {}
    causal: ClassVar[bool] = False
    stacks: ClassVar[bool] = True
    width: ClassVar[str] = "d_channels"
    has_phases: ClassVar[bool] = False

    @staticmethod
    def width_step(settings: ResNetSettings) -> int:
        """d_channels may be any number."""
        return 1

    @staticmethod
    def check(settings: ResNetSettings, task: Task) -> None:
        """Every setting works on every image."""

    @staticmethod
    def tiny() -> ResNetSettings:
        """A small configuration for tests."""
        return ResNetSettings(d_channels=4, blocks_per_stage=1)

    def __init__(self, settings: ResNetSettings, task: Task) -> None:
        super().__init__()
        width, n = settings.d_channels, settings.blocks_per_stage
        self.conv = nn.Conv2d(task.shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        before = [width] * n + [width] + [2 * width] * (n - 1) + [2 * width] + [4 * width] * (n - 1)
        after = [width] * n + [2 * width] * n + [4 * width] * n
        self.blocks = nn.ModuleList(ResidualBlock(a, b, stride=2 if b > a else 1) for a, b in zip(before, after, strict=True))
        self.head = nn.Linear(4 * width, task.n_outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        assert mask is None, "images have no padding"
        # Channels last in memory convolve faster on CPUs; permuted, as vmap has no contiguous(memory_format=...).
        h = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        h = torch.relu(self.norm(self.conv(h)))
        for block in self.blocks:
            h = block(h)
        pooled = widen(h).mean((2, 3))
        with no_autocast(pooled):
            scores: Tensor = self.head(pooled)
        return Output(scores.float())
