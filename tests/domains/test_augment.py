"""Normalising and augmenting whole batches of images."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from cvkan.domains.augment import PADDING, Encode, augmentation, crop_flip, flip

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def generator(device: str, seed: int = 0) -> Generator:
    return torch.Generator(device).manual_seed(seed)


def shift_by_hand(image: Tensor, dy: int, dx: int, mirrored: bool, black: Tensor) -> Tensor:
    """One image (C, H, W) cropped at offset (dy, dx) out of its padded self."""
    channels, height, width = image.shape
    padded = black.expand(channels, height + 2 * PADDING, width + 2 * PADDING).clone()
    padded[:, PADDING : PADDING + height, PADDING : PADDING + width] = image
    crop = padded[:, PADDING + dy : PADDING + dy + height, PADDING + dx : PADDING + dx + width]
    return crop.flip(2) if mirrored else crop


@pytest.mark.parametrize("device", DEVICES)
def test_encode_normalises_by_channel(device: str) -> None:
    x = torch.randint(0, 256, (5, 2, 3, 4), dtype=torch.uint8, generator=generator(device), device=device)
    mean, std = torch.tensor([0.5, 0.1], device=device), torch.tensor([0.2, 0.3], device=device)
    out = Encode([0.5, 0.1], [0.2, 0.3])(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (x / 255 - mean.view(2, 1, 1)) / std.view(2, 1, 1))


def test_encode_of_a_constant_channel_is_finite() -> None:
    assert Encode([1.0], [0.0])(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)).abs().max() < 1e-6


def test_every_crop_is_one_of_the_possible_ones_and_all_occur() -> None:
    image = torch.arange(1.0, 51.0).view(2, 5, 5)
    black = torch.tensor([-7.0, -9.0]).view(2, 1, 1)
    offsets = range(-PADDING, PADDING + 1)
    possible = torch.stack([shift_by_hand(image, dy, dx, m, black) for dy in offsets for dx in offsets for m in (False, True)])
    out = crop_flip(image.expand(4000, -1, -1, -1), generator("cpu"), black)
    matches = (out.flatten(1)[:, None] == possible.flatten(1)).all(2)  # (4000, 162)
    assert matches.any(1).all()
    assert matches.any(0).all()


def test_flip_mirrors_about_half_of_the_images() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4).expand(1000, -1, -1, -1)
    out = flip(x, generator("cpu"))
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert ((out == x).flatten(1).all(1) ^ mirrored).all()
    assert 400 < mirrored.sum() < 600


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["crop_flip", "flip"])
def test_the_generator_alone_decides(name: str, device: str) -> None:
    function = augmentation("flip" if name == "flip" else "crop_flip", Encode([0.1] * 3, [0.5] * 3))
    assert function is not None
    x = torch.rand(64, 3, 8, 8, device=device)
    first = function(x, generator(device, 1))
    torch.manual_seed(99)
    assert torch.equal(first, function(x, generator(device, 1)))
    assert not torch.equal(first, function(x, generator(device, 2)))
    assert first.shape == x.shape and first.dtype == x.dtype


def test_padding_is_the_code_of_black() -> None:
    encode = Encode([0.25, 0.5], [0.5, 0.25])
    function = augmentation("crop_flip", encode)
    assert function is not None
    white = torch.full((200, 2, 4, 4), 255, dtype=torch.uint8)
    values = function(encode(white), generator("cpu")).transpose(0, 1).flatten(1)  # (C, pixels)
    for channel, white_and_black in enumerate(([-0.5, 1.5], [-2.0, 2.0])):
        assert {round(value, 5) for value in values[channel].tolist()} == set(white_and_black)


def test_none_is_no_function() -> None:
    assert augmentation("none", Encode([0.0], [1.0])) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: waiting for the device is NOT tested")
def test_no_batch_waits_for_the_gpu() -> None:
    encode = Encode([0.1] * 3, [0.5] * 3)
    function = augmentation("crop_flip", encode)
    assert function is not None
    x = torch.zeros(64, 3, 32, 32, dtype=torch.uint8, device="cuda")
    draws = generator("cuda")
    function(encode(x), draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(encode(x), draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
