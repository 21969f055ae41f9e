"""Closed forms of the phase penalties."""

from __future__ import annotations

import math

import pytest
import torch

from cvkan.models.output import Pair
from cvkan.models.regularisers import REGULARISERS, diversity, phase_anchor


def at(angles: torch.Tensor, magnitudes: float = 2.0) -> Pair:
    return Pair(magnitudes * angles.cos(), magnitudes * angles.sin())


def test_diversity_is_1_for_channels_that_differ_by_a_constant_phase() -> None:
    walk = torch.randn(2, 9, 1) * 3
    assert float(diversity(at(walk + torch.tensor([0.0, 1.0, 2.5])), None)) == pytest.approx(1.0, abs=1e-5)


def test_diversity_is_0_for_orthogonal_channels() -> None:
    """Channel d turns d times over T = 8 tokens: a Fourier basis."""
    turns = torch.arange(8.0)[None, :, None] * torch.arange(4.0) * 2 * math.pi / 8
    assert float(diversity(at(turns), None)) == pytest.approx(0.0, abs=1e-6)


def test_diversity_of_independent_phases_is_one_over_tokens() -> None:
    angles = torch.rand(200, 10, 6, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    assert float(diversity(at(angles), None)) == pytest.approx(0.1, rel=0.05)


def test_diversity_of_one_channel_is_0() -> None:
    assert float(diversity(at(torch.randn(2, 5, 1)), None)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.2, math.pi / 4, 1.0, math.pi / 2, 2.0, math.pi, 4.0, -0.3])
def test_phase_anchor_is_the_squared_chord_to_the_nearest_quarter(angle: float) -> None:
    delta = abs((angle + math.pi / 4) % (math.pi / 2) - math.pi / 4)
    expected = 2 * (1 - math.cos(delta))
    assert float(phase_anchor(at(torch.full((2, 3, 4), angle)), None)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", REGULARISERS)
def test_padding_does_not_count(name: str) -> None:
    angles = torch.randn(3, 6, 4)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, :4] = True
    junk = torch.where(mask[..., None], angles, torch.tensor(7.7))
    regulariser = REGULARISERS[name]
    torch.testing.assert_close(regulariser(at(junk), mask), regulariser(at(angles[:, :4]), None))


@pytest.mark.parametrize("name", REGULARISERS)
def test_finite_with_a_gradient_in_float32_even_on_zeros_and_halves(name: str) -> None:
    for dtype in (torch.float32, torch.float16):
        z = Pair(torch.zeros(2, 3, 4, dtype=dtype, requires_grad=True), torch.zeros(2, 3, 4, dtype=dtype, requires_grad=True))
        penalty = REGULARISERS[name](z, torch.tensor([[True, True, False], [False, False, False]]))
        torch.autograd.backward(penalty)
        assert penalty.dtype == torch.float32 and penalty.isfinite()
        assert z.re.grad is not None and z.re.grad.isfinite().all()
