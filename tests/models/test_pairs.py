"""Every pair operation against torch.complex128, and the two rules of pairs.py: at least float32, no gradient at 0."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cvkan.models import pairs
from cvkan.models.output import Pair

PART = st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


def complex_of(z: Pair) -> Tensor:
    return torch.complex(z.re.double(), z.im.double())


def pair_of(z: Tensor) -> Pair:
    return Pair(z.real.float(), z.imag.float())


def close(actual: Tensor | Pair, expected: Tensor, size: float = 1.0) -> None:
    """Equal to float32's precision of terms as large as `size` or the result."""
    value = complex_of(actual) if isinstance(actual, Pair) else actual.double()
    scale = expected.abs().max().clamp(min=size)
    torch.testing.assert_close(value / scale, expected / scale, rtol=1e-5, atol=2e-6)


def safe_unit(z: Tensor) -> Tensor:
    return torch.where(z == 0, 0, z / z.abs().clamp(min=1e-300))


def safe_log(z: Tensor) -> Tensor:
    return (z.abs() ** 2 + 1e-12).log() / 2


UNARY: dict[str, tuple[Callable[[Pair], Tensor | Pair], Callable[[Tensor], Tensor]]] = {
    "power": (pairs.power, lambda z: z.abs() ** 2),
    "magnitude": (pairs.magnitude, lambda z: (z.abs() ** 2 + 1e-12).sqrt()),
    "log_magnitude": (pairs.log_magnitude, safe_log),
    "unit": (pairs.unit, safe_unit),
    "polar_u": (lambda z: pairs.polar(z)[0], safe_log),
    "polar_p": (lambda z: pairs.polar(z)[1], safe_unit),
    "from_polar": (lambda z: pairs.from_polar(*pairs.polar(z)), lambda z: z),
}


@pytest.mark.parametrize("name", UNARY)
@settings(max_examples=40, deadline=None)
@given(re=st.lists(PART, min_size=4, max_size=4), im=st.lists(PART, min_size=4, max_size=4))
def test_a_unary_operation_equals_complex128(name: str, re: list[float], im: list[float]) -> None:
    z = Pair(torch.tensor(re), torch.tensor(im))
    ours, reference = UNARY[name]
    close(ours(z), reference(complex_of(z)))


@settings(max_examples=60, deadline=None)
@given(a=st.tuples(PART, PART), b=st.tuples(PART, PART))
def test_binary_operations_equal_complex128(a: tuple[float, float], b: tuple[float, float]) -> None:
    z, w = (Pair(torch.tensor([x[0]]), torch.tensor([x[1]])) for x in (a, b))
    c, d = complex_of(z), complex_of(w)
    size = 1.0 + float(c.abs() + d.abs())
    close(pairs.multiply(z, w), c * d, size**2)
    close(pairs.multiply_conjugate(z, w), c * d.conj(), size**2)
    close(pairs.add(z, w), c + d, size)
    close(pairs.subtract(z, w), c - d, size)
    close(pairs.scale(z, w.re), c * d.real, size**2)
    close(pairs.add_along(z, w.re, w), c + d.real * safe_unit(d), size)
    angle = torch.tensor([a[0]])
    close(pairs.rotate(w, angle.cos(), angle.sin()), d * torch.exp(1j * angle.double()), size)


GRADED: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "log_magnitude": lambda re, im: pairs.log_magnitude(Pair(re, im)),
    "magnitude": lambda re, im: pairs.magnitude(Pair(re, im)),
    "unit": lambda re, im: pairs.unit(Pair(re, im)),
    "polar": lambda re, im: (pairs.polar(Pair(re, im))[0], *pairs.polar(Pair(re, im))[1]),
    "rotate": lambda re, im: pairs.rotate(Pair(re, im), torch.tensor(0.6).double(), torch.tensor(0.8).double()),
    "add_along": lambda re, im: pairs.add_along(Pair(im, re), re * im, Pair(re, im)),
    "add_along broadcast": lambda re, im: pairs.add_along(Pair(re, im), im[:1], Pair(im[:1], re[:1])),
    "gated_exponential": lambda re, im: pairs.gated_exponential(re, im[0, 0], 5.0),
    "running_mean": lambda re, im: pairs.running_mean(re[None] * im[None], torch.tensor([[True, False, True]])),
}


@pytest.mark.parametrize("name", GRADED)
def test_gradients_equal_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(3, 2, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(GRADED[name], parts)


@pytest.mark.parametrize("name", UNARY)
def test_the_gradient_at_zero_is_zero(name: str) -> None:
    re, im = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    out = UNARY[name][0](Pair(re, im))
    torch.autograd.backward([part.sum() for part in (out if isinstance(out, Pair) else (out,))])
    assert re.grad is not None and im.grad is not None
    assert not re.grad.any() and not im.grad.any()


def test_adding_along_nothing_adds_nothing_and_has_no_gradient() -> None:
    w = Pair(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True))
    z = Pair(torch.ones(2, 3), torch.ones(2, 3))
    out = pairs.add_along(z, torch.ones(2, 3), w)
    torch.autograd.backward(out.re.sum() + out.im.sum())
    assert torch.equal(out.re, z.re) and torch.equal(out.im, z.im)
    assert w.re.grad is not None and not w.re.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", UNARY)
def test_halves_are_widened(name: str, dtype: torch.dtype) -> None:
    """300^2 overflows float16, and 1e-4^2 underflows it; neither may happen."""
    z = Pair(torch.tensor([300.0, 1e-4, 0.0], dtype=dtype), torch.tensor([-400.0, 2e-4, 0.0], dtype=dtype))
    with torch.autocast("cpu", dtype):
        out = UNARY[name][0](z)
    for part in out if isinstance(out, Pair) else (out,):
        assert part.dtype == torch.float32
    close(out, UNARY[name][1](complex_of(z)))


def test_means_and_softmax_see_only_real_tokens() -> None:
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    other = torch.where(mask[..., None], x, 1e30)
    torch.testing.assert_close(pairs.token_mean(other, mask)[0, 0], x[0, :2].mean(0))
    assert not pairs.token_mean(other, mask)[1].any()
    weights = pairs.masked_softmax(other[..., 0], mask)
    torch.testing.assert_close(weights[0, :2], x[0, :2, 0].softmax(0))
    assert not weights[0, 2:].any() and not weights[1].any()


def test_operations_run_under_vmap() -> None:
    z = pair_of(torch.randn(3, 4, 5, dtype=torch.complex128))
    u, p = torch.func.vmap(lambda re, im: pairs.polar(Pair(re, im)))(z.re, z.im)
    expected_u, expected_p = pairs.polar(z)
    torch.testing.assert_close((u, p.re, p.im), (expected_u, expected_p.re, expected_p.im))
