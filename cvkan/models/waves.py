"""Operations of TPI with backward passes of their own: about half the passes over memory that autograd would make.

Symbols, all (..., D) real: phi a phase, (c, s) = (cos phi, sin phi) its wave e^(i phi), x a token's channels, M = M_re + i M_im a
memory. A phase's gradient needs no trigonometry: z = y e^(i phi) has dz/dphi = i z, so grad_phi = g_im z_re - g_re z_im,
and z = y e^(-i phi) has the negative of it. Waves are therefore passed beside their phases, and get no gradient here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from cvkan.models.output import Pair

RMS_EPS = 1e-6
"""Added to the mean square of a pair."""


def _defined(gradient: Tensor | None, like: Tensor) -> Tensor:
    """The gradient, or zeros for an output that the loss does not use."""
    return torch.zeros_like(like) if gradient is None else gradient


def _real_product(a_re: Tensor, a_im: Tensor, b_re: Tensor, b_im: Tensor) -> Tensor:
    """Re(a conj(b))."""
    return torch.addcmul(a_re * b_re, a_im, b_im)


def _imaginary_product(a_re: Tensor, a_im: Tensor, b_re: Tensor, b_im: Tensor) -> Tensor:
    """Im(a conj(b))."""
    return torch.addcmul(a_im * b_re, a_re, b_im, value=-1)


class _Wave(Function):
    """grad_phi = g_sin cos - g_cos sin."""

    generate_vmap_rule = True

    @staticmethod
    def forward(phi: Tensor) -> tuple[Tensor, Tensor]:
        return phi.cos(), phi.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g_cos: Tensor, g_sin: Tensor) -> Tensor:
        return _imaginary_product(g_cos, g_sin, *ctx.saved_tensors)


def wave(phi: Tensor) -> Pair:
    """e^(i phi)."""
    return Pair(*_Wave.apply(phi))  # type: ignore[no-untyped-call]


class _Write(Function):
    """z = x e^(i phi), m = bound sigmoid(l), w = m z; G = g_z + m g_w.

    grad_x = Re(G conj(e^(i phi))), grad_phi = Im(G conj(z)), grad_l = (g_m + Re(g_w conj(z))) m (1 - m/bound).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logit: Tensor, phi: Tensor, cos: Tensor, sin: Tensor, bound: float) -> tuple[Tensor, ...]:
        m = logit.sigmoid().mul_(bound)
        re, im = x * cos, x * sin
        return re, im, re * m, im * m, m

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        re, im, _, _, m = output
        ctx.bound = inputs[5]
        ctx.save_for_backward(inputs[3], inputs[4], re, im, m)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        cos, sin, re, im, m = ctx.saved_tensors
        g_re, g_im, g_w_re, g_w_im, g_m = (_defined(g, m) for g in gradients)
        g_m = torch.addcmul(torch.addcmul(g_m, g_w_re, re), g_w_im, im)
        g_re, g_im = torch.addcmul(g_re, g_w_re, m), torch.addcmul(g_im, g_w_im, m)
        slope = torch.addcmul(m, m, m, value=-1.0 / ctx.bound)
        return _real_product(g_re, g_im, cos, sin), g_m * slope, _imaginary_product(g_re, g_im, re, im), None, None, None


def write(x: Tensor, logit: Tensor, phi: Tensor, at: Pair, bound: float) -> tuple[Pair, Pair, Tensor]:
    """Content x e^(i phi), the same times m = bound sigmoid(logit), and m. `at` is the wave of phi."""
    re, im, w_re, w_im, m = _Write.apply(x, logit, phi, at.re.detach(), at.im.detach(), bound)  # type: ignore[no-untyped-call]
    return Pair(re, im), Pair(w_re, w_im), m


class _Read(Function):
    """r = M e^(-i phi) n^-p, s = n^-p.

    grad_M = s g e^(i phi), grad_phi = -Im(g conj(r)), grad_n = -p Re(g conj(r)) / n.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(m_re: Tensor, m_im: Tensor, n: Tensor, phi: Tensor, cos: Tensor, sin: Tensor, root: bool) -> tuple[Tensor, ...]:
        s = n.rsqrt() if root else n.reciprocal()
        return _real_product(m_re, m_im, cos, sin).mul_(s), _imaginary_product(m_re, m_im, cos, sin).mul_(s), s

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.root = inputs[6]
        ctx.save_for_backward(*inputs[4:6], *output)

    @staticmethod
    def backward(ctx: Any, g_re: Tensor | None, g_im: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        cos, sin, re, im, s = ctx.saved_tensors
        g_re, g_im = _defined(g_re, s), _defined(g_im, s)
        along = _real_product(g_re, g_im, re, im)
        # 1/n is s^2 or s.
        g_n = (along * s * s).mul_(-0.5) if ctx.root else -(along * s)
        g_phi = torch.addcmul(g_re * im, g_im, re, value=-1)
        g_re, g_im = g_re * s, g_im * s
        return torch.addcmul(g_re * cos, g_im, sin, value=-1), torch.addcmul(g_im * cos, g_re, sin), g_n, g_phi, None, None, None


def read(memory: Pair, n: Tensor, phi: Tensor, at: Pair, root: bool) -> Pair:
    """memory e^(-i phi) over n > 0, or over sqrt(n). `at` is the wave of phi."""
    re, im, _ = _Read.apply(memory.re, memory.im, n, phi, at.re.detach(), at.im.detach(), root)  # type: ignore[no-untyped-call]
    return Pair(re, im)


class _UnitPairs(Function):
    """y = z v, v = 1/sqrt(mean z^2 + eps) over the 2D numbers of each pair: grad_z = v (g - y mean(g y))."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a_re: Tensor, a_im: Tensor, b_re: Tensor, b_im: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat((a_re, a_im, b_re, b_im), dim=-1)
        pairs = y.reshape(*y.shape[:-1], 2, -1)
        norm = torch.linalg.vector_norm(pairs, dim=-1, keepdim=True)
        inverse = (norm.square() / pairs.shape[-1] + RMS_EPS).rsqrt_()
        return (pairs * inverse).reshape(y.shape), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> tuple[Tensor, ...]:
        y, inverse = ctx.saved_tensors
        g = _defined(g, y)
        y, g = (z.reshape(*z.shape[:-1], 2, -1) for z in (y, g))
        mean = (g * y).sum(-1, keepdim=True) / y.shape[-1]
        g = torch.addcmul(g, y, mean, value=-1).mul_(inverse)
        return g.flatten(-2).chunk(4, dim=-1)


def unit_pairs(a: Pair, b: Pair) -> Tensor:
    """[re a, im a, re b, im b] (..., 4D), each pair over the root mean square of its 2D numbers."""
    y, _ = _UnitPairs.apply(*a, *b)  # type: ignore[no-untyped-call]
    return y  # type: ignore[no-any-return]
