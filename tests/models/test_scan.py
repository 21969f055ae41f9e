"""Running sums: their values, gradients and precision, and that no token sees those after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cvkan.models import scan

LENGTHS = (1, 5, 32, 33, 100, 1100)
"""Shorter than a chunk, a chunk, one more, no multiple of a chunk, and more than a chunk of chunks."""


def wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "running": scan.running_sum,
    "window 1": lambda x: scan.window_sum(x, 1),
    "window 7": lambda x: scan.window_sum(x, 7),
    "window 40": lambda x: scan.window_sum(x, 40),
    "decay": lambda x: scan.decayed_sum(x, torch.tensor([0.9], dtype=wide(x))),
    "decays": lambda x: scan.decayed_sum(x, torch.tensor([scan.LOWEST_DECAY, 0.5, 1.0], dtype=wide(x))),
}
every_sum = pytest.mark.parametrize("name", SUMS)


def reference(name: str, x: Tensor) -> Tensor:
    """One token after the other, in float64."""
    x, kept, total, sums = x.double(), 1.0, torch.zeros(x.shape[0], x.shape[2], dtype=torch.float64), []
    decay: Tensor | float = {"decay": 0.9, "decays": torch.tensor([scan.LOWEST_DECAY, 0.5, 1.0], dtype=torch.float64)}.get(name, kept)
    size = int(name.split()[1]) if name.startswith("window") else None
    for t in range(x.shape[1]):
        total = x[:, max(0, t + 1 - size) : t + 1].sum(1) if size else total * decay + x[:, t]
        sums.append(total)
    return torch.stack(sums, 1)


def tokens(length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, length, 3, generator=torch.Generator().manual_seed(length), dtype=dtype)


@every_sum
@pytest.mark.parametrize("length", LENGTHS)
def test_sums_are_those_of_a_loop(name: str, length: int) -> None:
    x = tokens(length)
    torch.testing.assert_close(SUMS[name](x), reference(name, x))
    expected = reference(name, x.float())
    torch.testing.assert_close(SUMS[name](x.float()).double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@every_sum
@pytest.mark.parametrize("length", [6, 37])
def test_gradients_are_those_of_finite_differences(name: str, length: int) -> None:
    assert torch.autograd.gradcheck(SUMS[name], (tokens(length)[:1].requires_grad_(),))


@pytest.mark.parametrize("n", [1, 3])
def test_a_decay_learns(n: int) -> None:
    decay = torch.tensor([0.8, 0.4, 0.95], dtype=torch.float64)[:n].requires_grad_()
    assert torch.autograd.gradcheck(scan.decayed_sum, (tokens(37)[:1], decay))


@every_sum
def test_no_token_sees_those_after_it(name: str) -> None:
    x = tokens(100, torch.float32)
    for t in (1, 31, 32, 77):
        changed = x.clone()
        changed[:, t] = 1e15
        assert torch.equal(SUMS[name](changed)[:, :t], SUMS[name](x)[:, :t])
        assert not torch.equal(SUMS[name](changed)[:, t], SUMS[name](x)[:, t])


def test_many_terms_keep_their_precision() -> None:
    x = torch.full((1, 20_000, 1), 0.1)
    exact = torch.arange(1, 20_001, dtype=torch.float64) * x[0, 0, 0].double()
    assert ((scan.running_sum(x)[0, :, 0] - exact) / exact).abs().max() < 1e-6


def test_a_window_after_large_values_is_as_exact_as_without_them() -> None:
    """A difference of two long sums would leave rounding errors of the large values, even below 0."""
    x = torch.full((1, 300, 1), 1e-6)
    x[:, :100] = 1e6
    torch.testing.assert_close(scan.window_sum(x, 50)[0, 200:, 0], torch.full((100,), 5e-5), rtol=1e-5, atol=0.0)


@every_sum
def test_halves_are_summed_in_float32(name: str) -> None:
    x = tokens(200).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = SUMS[name](x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), reference(name, x), rtol=1e-4, atol=1e-4)


@every_sum
def test_members_of_a_pack_are_summed_as_alone(name: str) -> None:
    x = torch.stack([tokens(40), tokens(40).flip(1)])
    torch.testing.assert_close(torch.func.vmap(SUMS[name])(x), torch.stack([SUMS[name](member) for member in x]))


def test_decays_of_a_pack_get_the_gradients_that_they_get_alone() -> None:
    def loss(x: Tensor, decay: Tensor) -> Tensor:
        return scan.decayed_sum(x, decay).square().sum()

    x, decay = tokens(40), torch.tensor([[0.9, 0.2, 0.5], [0.3, 0.99, 0.7]], dtype=torch.float64)
    gradient = torch.func.grad(loss, argnums=(0, 1))
    packed = torch.func.vmap(gradient)(x.unsqueeze(1), decay)
    for i in range(2):
        torch.testing.assert_close(tuple(part[i] for part in packed), gradient(x[i : i + 1], decay[i]))
