"""From a task's input to tokens, and what tells tokens where they stand.

Symbols: x (B, ...) model inputs as `Task.input` says, T tokens, d channels of a token, theta (T, d) angles; for images
(B, C, H, W): s patch size, h = H/s and w = W/s the token grid, T = h w tokens in row-major order.
Sources: `linear`: Dosovitskiy et al. 2021 (ViT patches); `conv`: DeepPatchEmbedding of the image log; `sinusoidal`:
Vaswani et al. 2017, in two dimensions by halves of the channels, applied as a rotation e^(i theta) to complex tokens.
An image embedding is a module (B, C, H, W) -> (B, T, d) built from (C, d, s). It is real; a complex model has one for re
and one for im, so both kinds of model share it. Other inputs have one embedding each: steps of a series and complex
frames a linear map, token ids a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.output import Pair
from cvkan.models.pairs import multiply, rotate, widened

Grid = tuple[int, ...]
"""Rows and columns of an image's tokens, or the number of tokens of the longest sequence."""

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


def token_grid(task: Task, patch_size: int) -> Grid:
    """Where the tokens of a task's inputs stand: (rows, columns) of image patches, or (length,) of the longest sequence."""
    if task.input == "image":
        return task.shape[1] // patch_size, task.shape[2] // patch_size
    return (task.length,)


def check_tokens(task: Task, embedding: str, patch_size: int, positions: str) -> None:
    """Raises ValueError, naming the setting, where a task's inputs cannot become tokens in this way."""
    if task.input == "image":
        height, width = task.shape[1:]
        if height % patch_size or width % patch_size:
            raise ValueError(f"model.patch_size {patch_size} does not divide images of {height}x{width}")
        if embedding == "conv" and patch_size not in CONV_STRIDES:
            raise ValueError(f"model.patch_size {patch_size} does not work with model.embedding conv, which has patches of 2 or 4")
    elif positions == "learned" and task.length > task.shape[0]:
        raise ValueError(f"model.positions learned ends at token {task.shape[0]}, and the data set tests {task.length} tokens")


class ComplexLinear(nn.Module):
    """W x + b with complex W (d, n), b (d): x (..., n, 2), re and im last, to a pair (..., d)."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.re = nn.Linear(2 * n, d)
        self.im_bias = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Pair:
        flat = x.flatten(-2)  # re_1, im_1, re_2, im_2, ...: the weights stand in the same order
        turned = torch.stack((-self.re.weight[:, 1::2], self.re.weight[:, 0::2]), dim=-1).flatten(1)
        # (a + ib)(w + iv) = (aw - bv) + i(av + bw): `re` holds (w, -v), so im needs (v, w).
        return Pair(self.re(flat), F.linear(flat, turned, self.im_bias))


class RealTokens(nn.Module):
    """Model inputs to real tokens (B, T, d)."""

    def __init__(self, task: Task, d: int, embedding: str, patch_size: int) -> None:
        super().__init__()
        self.input = task.input
        self.embed: nn.Module
        if task.input == "image":
            self.embed = EMBEDDINGS[embedding](task.shape[0], d, patch_size)
        elif task.input == "tokens":
            self.embed = nn.Embedding(task.vocabulary, d)
        else:
            self.embed = nn.Linear(2 * task.shape[1] if task.input == "complex" else task.shape[1], d)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.embed(x.flatten(-2) if self.input == "complex" else x)
        return tokens


class ComplexTokens(nn.Module):
    """Model inputs to complex tokens (B, T, d), at least float32. Token ids have a table of 2d columns."""

    def __init__(self, task: Task, d: int, embedding: str, patch_size: int) -> None:
        super().__init__()
        self.whole: nn.Module | None = None
        if task.input == "complex":
            self.whole = ComplexLinear(task.shape[1], d)
        else:
            self.re = RealTokens(task, d, embedding, patch_size)
            self.im = RealTokens(task, d, embedding, patch_size)

    def forward(self, x: Tensor) -> Pair:
        return widened(self.whole(x) if self.whole is not None else Pair(self.re(x), self.im(x)))


class NoPositions(nn.Module):
    """z as it is."""

    def __init__(self, d: int, grid: Grid) -> None:
        super().__init__()

    def forward(self, z: Pair) -> Pair:
        return z


def sinusoidal_angles(d: int, grid: Grid) -> Tensor:
    """theta (T, d) float64: place * f_k, f_k = BASE^(-k/n) for n channels of an axis.

    A sequence has one axis with all d channels; of an image's, rows have the first d/2 channels and columns the others.
    """
    n = d // len(grid)
    # On the CPU also where a model is only counted: torch needs a second to prepare `arange` for the meta device.
    frequencies = BASE ** (-torch.arange(n, dtype=torch.float64, device="cpu") / n)
    places = [torch.arange(size, dtype=torch.float64, device="cpu")[:, None] * frequencies for size in grid]
    if len(grid) == 1:
        return places[0]
    by_row = places[0][:, None, :].expand(grid[0], grid[1], n)
    by_column = places[1][None, :, :].expand(grid[0], grid[1], n)
    return torch.cat((by_row, by_column), dim=-1).reshape(grid[0] * grid[1], d)


class SinusoidalPositions(nn.Module):
    """z e^(i theta) with the fixed angles of `sinusoidal_angles`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, d: int, grid: Grid) -> None:
        super().__init__()
        angles = sinusoidal_angles(d, grid)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, z: Pair) -> Pair:
        tokens = z.re.shape[-2]
        return rotate(z, self.cos[:tokens], self.sin[:tokens])


class LearnedPositions(nn.Module):
    """z e^(i theta) with learned angles, normal with deviation 0.02 at the start."""

    def __init__(self, d: int, grid: Grid) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.randn(math.prod(grid), d) * 0.02)

    def forward(self, z: Pair) -> Pair:
        angles = self.angles[: z.re.shape[-2]]
        return multiply(z, Pair(angles.cos(), angles.sin()))


POSITIONS: dict[str, Callable[[int, Grid], nn.Module]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "none": NoPositions,
}
"""From the name of a position code to its module, built from channels d and the token grid; tokens (B, T, d) in and out."""
