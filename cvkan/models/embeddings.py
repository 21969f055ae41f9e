"""From images to tokens, and what tells tokens where they stand.

Symbols: x (B, C, H, W) images, s patch size, h = H/s and w = W/s the token grid, T = h w tokens in row-major order,
d channels of a token, theta (T, d) angles.
Sources: `linear`: Dosovitskiy et al. 2021 (ViT patches); `conv`: DeepPatchEmbedding of the image log; `sinusoidal`:
Vaswani et al. 2017, in two dimensions by halves of the channels, applied as a rotation e^(i theta) to complex tokens.
An embedding is a module (B, C, H, W) -> (B, T, d) built from (C, d, s). It is real; a complex model has one for re
and one for im, so both kinds of model share it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cvkan.models.output import Pair
from cvkan.models.pairs import multiply, rotate

BASE = 10_000.0
"""Longest period of the sinusoidal positions, over 2 pi, in tokens."""


class LinearPatches(nn.Module):
    """Every s x s patch flattened and mapped by one linear layer."""

    def __init__(self, channels: int, d: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(channels * patch_size * patch_size, d)

    def forward(self, x: Tensor) -> Tensor:
        s = self.patch_size
        batch, channels, height, width = x.shape
        patches = x.reshape(batch, channels, height // s, s, width // s, s).permute(0, 2, 4, 1, 3, 5)
        tokens: Tensor = self.project(patches.reshape(batch, (height // s) * (width // s), channels * s * s))
        return tokens


CONV_STRIDES: dict[int, tuple[int, int]] = {2: (2, 1), 4: (2, 2)}
"""From the patch size to the strides of the two convolutions."""


class ConvStem(nn.Module):
    """Conv3x3 -> BN -> ReLU -> Conv3x3 -> BN -> ReLU with d/2, then d channels; the product of strides is s.

    The convolutions have no bias: batch norm would cancel it. Channels lie last in memory, which oneDNN and cuDNN
    convolve faster and which makes the tokens (B, T, d) contiguous without a copy.
    """

    def __init__(self, channels: int, d: int, patch_size: int) -> None:
        super().__init__()
        first, second = CONV_STRIDES[patch_size]
        self.conv_1 = nn.Conv2d(channels, d // 2, 3, stride=first, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(d // 2)
        self.conv_2 = nn.Conv2d(d // 2, d, 3, stride=second, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(d)

    def forward(self, x: Tensor) -> Tensor:
        # A permuted copy, not contiguous(memory_format=...), which vmap does not support.
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        x = torch.relu(self.norm_1(self.conv_1(x)))
        x = torch.relu(self.norm_2(self.conv_2(x)))
        return x.flatten(2).transpose(1, 2)


EMBEDDINGS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "linear": LinearPatches,
    "conv": ConvStem,
}
"""From the name of an embedding to its module, built from image channels C, token channels d and patch size s."""


def patch_grid(shape: tuple[int, ...], patch_size: int) -> tuple[int, int]:
    """Rows and columns of the token grid of images of `shape` (C, H, W)."""
    return shape[1] // patch_size, shape[2] // patch_size


def check_patches(embedding: str, patch_size: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError where images of `shape` (C, H, W) cannot be cut into the patches that `embedding` makes."""
    if shape[1] % patch_size or shape[2] % patch_size:
        raise ValueError(f"model.patch_size {patch_size} does not divide images of {shape[1]}x{shape[2]}")
    if embedding == "conv" and patch_size not in CONV_STRIDES:
        raise ValueError(f"model.patch_size {patch_size} does not work with model.embedding conv, which has patches of 2 or 4")


class NoPositions(nn.Module):
    """z as it is."""

    def __init__(self, d: int, grid: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, z: Pair) -> Pair:
        return z


def sinusoidal_angles(d: int, grid: tuple[int, int]) -> Tensor:
    """theta (T, d) float64: row * f_k for the first d/2 channels, column * f_k for the others, f_k = BASE^(-2k/d)."""
    # On the CPU also where a model is only counted: torch needs a second to prepare `arange` for the meta device.
    rows, columns = (torch.arange(n, dtype=torch.float64, device="cpu") for n in grid)
    frequencies = BASE ** (-torch.arange(d // 2, dtype=torch.float64, device="cpu") / (d // 2))
    by_row = (rows[:, None] * frequencies)[:, None, :].expand(grid[0], grid[1], d // 2)
    by_column = (columns[:, None] * frequencies)[None, :, :].expand(grid[0], grid[1], d // 2)
    return torch.cat((by_row, by_column), dim=-1).reshape(grid[0] * grid[1], d)


class SinusoidalPositions(nn.Module):
    """z e^(i theta) with the fixed angles of `sinusoidal_angles`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, d: int, grid: tuple[int, int]) -> None:
        super().__init__()
        angles = sinusoidal_angles(d, grid)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, z: Pair) -> Pair:
        return rotate(z, self.cos, self.sin)


class LearnedPositions(nn.Module):
    """z e^(i theta) with learned angles, normal with deviation 0.02 at the start."""

    def __init__(self, d: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.randn(grid[0] * grid[1], d) * 0.02)

    def forward(self, z: Pair) -> Pair:
        return multiply(z, Pair(self.angles.cos(), self.angles.sin()))


POSITIONS: dict[str, Callable[[int, tuple[int, int]], nn.Module]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "none": NoPositions,
}
"""From the name of a position code to its module, built from channels d and the token grid; tokens (B, T, d) in and out."""
