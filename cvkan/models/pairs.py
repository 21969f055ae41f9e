"""Operations on complex tensors that are carried as pairs of real ones.

Symbols: z = re + i im, r = |z|, u = log|z|, p = z/|z| (unit phase), EPS = 1e-12 under every root and log.
Source: the polar form of the CV-KAN research log. Shapes are any unless given; B batch, T tokens, D channels.

Two rules hold throughout:
- Halves (float16, bfloat16) are widened to float32 before any polar operation or sum, whatever autocast says;
  float64 stays float64, so that a model can be checked in double precision.
- At z = 0 every gradient is zero: a phase that does not exist has no direction to move in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from cvkan.models.output import Pair
from cvkan.models.precision import no_autocast as no_autocast
from cvkan.models.precision import widen as widen
from cvkan.models.scan import running_sum

EPS = 1e-12
"""Added to re^2 + im^2 before a root or a logarithm."""


def widened(z: Pair) -> Pair:
    """`widen` of both parts."""
    return Pair(widen(z.re), widen(z.im))


def _square(re: Tensor, im: Tensor) -> Tensor:
    return torch.addcmul(re * re, im, im)


def power(z: Pair) -> Tensor:
    """re^2 + im^2, at least float32."""
    z = widened(z)
    return _square(z.re, z.im)


def magnitude(z: Pair) -> Tensor:
    """sqrt(re^2 + im^2 + EPS), at least float32."""
    return (power(z) + EPS).sqrt()


def _defined(gradient: Tensor | None, like: Tensor) -> Tensor:
    """The gradient, or zeros for an output that the loss does not use."""
    return torch.zeros_like(like) if gradient is None else gradient


class _LogMagnitude(Function):
    """u = log(P)/2 with P = re^2 + im^2 + EPS; du/dre = re/P. Three passes back instead of nine."""

    generate_vmap_rule = True

    @staticmethod
    def forward(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        total = _square(re, im).add_(EPS)
        return total.log().mul_(0.5), total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, g_u: Tensor | None, _: None) -> tuple[Tensor, Tensor]:
        re, im, total = ctx.saved_tensors
        slope = _defined(g_u, total) / total
        return re * slope, im * slope


def log_magnitude(z: Pair) -> Tensor:
    """0.5 log(re^2 + im^2 + EPS), at least float32."""
    z = widened(z)
    u, _ = _LogMagnitude.apply(z.re, z.im)  # type: ignore[no-untyped-call]
    return u  # type: ignore[no-any-return]


def _inverse(square: Tensor) -> Tensor:
    """1/sqrt(square + EPS), 0 where square is 0: sign() is the cheapest vectorised mask."""
    return (square + EPS).rsqrt_().mul_(square.sign())


class _Polar(Function):
    """(u, p) of a complex number with a backward pass of its own: seven passes over memory instead of some twenty.

    With P = re^2 + im^2 + EPS and v = 1/sqrt(P) (0 where z = 0), u = log(P)/2 and p = z v:
    du/dre = v p_re, dp_re/dre = v (1 - p_re^2), dp_re/dim = -v p_re p_im, and so
    grad_re = v (g_re + p_re q), grad_im = v (g_im + p_im q), q = g_u - g_re p_re - g_im p_im.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        square = _square(re, im)
        inverse = _inverse(square)
        return square.add_(EPS).log().mul_(0.5), re * inverse, im * inverse, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[3])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, g_u: Tensor | None, g_re: Tensor | None, g_im: Tensor | None, _: None) -> tuple[Tensor, Tensor]:
        p_re, p_im, inverse = ctx.saved_tensors
        g_u, g_re, g_im = _defined(g_u, inverse), _defined(g_re, inverse), _defined(g_im, inverse)
        q = torch.addcmul(torch.addcmul(g_u, g_re, p_re, value=-1), g_im, p_im, value=-1)
        return torch.addcmul(g_re, p_re, q) * inverse, torch.addcmul(g_im, p_im, q) * inverse


class _Unit(Function):
    """The phase alone: `_Polar` without u."""

    generate_vmap_rule = True

    @staticmethod
    def forward(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = _inverse(_square(re, im))
        return re * inverse, im * inverse, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, g_re: Tensor | None, g_im: Tensor | None, _: None) -> tuple[Tensor, Tensor]:
        p_re, p_im, inverse = ctx.saved_tensors
        g_re, g_im = _defined(g_re, inverse), _defined(g_im, inverse)
        dot = torch.addcmul(g_re * p_re, g_im, p_im)
        return (
            torch.addcmul(g_re, p_re, dot, value=-1) * inverse,
            torch.addcmul(g_im, p_im, dot, value=-1) * inverse,
        )


class _AddAlong(Function):
    """z + a w/|w| for z, a and w of one shape; n = w/|w|, v = 1/|w| (0 where w = 0).

    grad_z = g, grad_a = Re(g conj(n)), grad_w = a v (g - n grad_a).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z_re: Tensor, z_im: Tensor, a: Tensor, w_re: Tensor, w_im: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = _inverse(_square(w_re, w_im))
        factor = a * inverse
        return torch.addcmul(z_re, factor, w_re), torch.addcmul(z_im, factor, w_im), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[2:], output[2])

    @staticmethod
    def backward(ctx: Any, g_re: Tensor | None, g_im: Tensor | None, _: None) -> tuple[Tensor, ...]:
        a, w_re, w_im, inverse = ctx.saved_tensors
        g_re, g_im = _defined(g_re, inverse), _defined(g_im, inverse)
        g_a = torch.addcmul(g_re * w_re, g_im, w_im) * inverse
        factor, along = a * inverse, g_a * inverse
        g_w_re = torch.addcmul(g_re, w_re, along, value=-1) * factor
        g_w_im = torch.addcmul(g_im, w_im, along, value=-1) * factor
        return g_re, g_im, g_a, g_w_re, g_w_im


class _GatedExponential(Function):
    """a = s e, e = exp(bound tanh(x)); grad_s = sum(g e), grad_x = g e s bound (1 - tanh(x)^2)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, s: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
        tanh = x.tanh()
        exponential = (tanh * bound).exp_()
        return exponential * s, tanh, exponential

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.bound = inputs[2]
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.save_for_backward(inputs[1], output[1], output[2])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None, __: None) -> tuple[Tensor, Tensor, None]:
        s, tanh, exponential = ctx.saved_tensors
        g_s = _defined(g, tanh) * exponential
        return torch.ops.aten.tanh_backward(g_s * (s * ctx.bound), tanh), g_s.sum(), None


def gated_exponential(x: Tensor, s: Tensor, bound: float) -> Tensor:
    """s exp(bound tanh(x)) for a scalar s, at least float32."""
    a, _, _ = _GatedExponential.apply(widen(x), s, bound)  # type: ignore[no-untyped-call]
    return a  # type: ignore[no-any-return]


def polar(z: Pair) -> tuple[Tensor, Pair]:
    """(log|z|, z/|z|) at once: u = 0.5 log(re^2 + im^2 + EPS), p = z / sqrt(re^2 + im^2 + EPS); p = 0 at z = 0."""
    z = widened(z)
    u, p_re, p_im, _ = _Polar.apply(z.re, z.im)  # type: ignore[no-untyped-call]
    return u, Pair(p_re, p_im)


def unit(z: Pair) -> Pair:
    """z / sqrt(re^2 + im^2 + EPS); 0 at z = 0."""
    z = widened(z)
    p_re, p_im, _ = _Unit.apply(z.re, z.im)  # type: ignore[no-untyped-call]
    return Pair(p_re, p_im)


def add(a: Pair, b: Pair) -> Pair:
    """a + b."""
    return Pair(a.re + b.re, a.im + b.im)


def subtract(a: Pair, b: Pair) -> Pair:
    """a - b."""
    return Pair(a.re - b.re, a.im - b.im)


def scale(z: Pair, factor: Tensor) -> Pair:
    """z a for real a, with broadcasting."""
    return Pair(z.re * factor, z.im * factor)


def add_along(z: Pair, a: Tensor, w: Pair) -> Pair:
    """z + a w/|w|, at least float32, for real a of w's shape; both may broadcast to z. A w of 0 adds nothing."""
    z, w = widened(z), widened(w)
    if w.re.shape != z.re.shape:
        # The small product first: a product that broadcasts would fill tensors of z's size on the way back.
        return add(z, scale(unit(w), a))
    re, im, _ = _AddAlong.apply(z.re, z.im, a, w.re, w.im)  # type: ignore[no-untyped-call]
    return Pair(re, im)


def multiply(a: Pair, b: Pair) -> Pair:
    """a b = (a_re b_re - a_im b_im) + i (a_re b_im + a_im b_re)."""
    return Pair(
        torch.addcmul(a.re * b.re, a.im, b.im, value=-1),
        torch.addcmul(a.re * b.im, a.im, b.re),
    )


class _Rotate(Function):
    """z e^(i theta) for fixed angles: the backward pass rotates the gradient by -theta, four passes instead of ten."""

    generate_vmap_rule = True

    @staticmethod
    def forward(re: Tensor, im: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        # A plain tuple: vmap takes the outputs of a Function for nothing else.
        rotated = multiply(Pair(re, im), Pair(cos, sin))
        return rotated.re, rotated.im

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[2], inputs[3])

    @staticmethod
    def backward(ctx: Any, g_re: Tensor, g_im: Tensor) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        back = multiply_conjugate(Pair(g_re, g_im), Pair(cos, sin))
        return back.re, back.im, None, None


def rotate(z: Pair, cos: Tensor, sin: Tensor) -> Pair:
    """z (cos + i sin) for angles that need no gradient and broadcast to z: z e^(i theta), at least float32."""
    z = widened(z)
    re, im = _Rotate.apply(z.re, z.im, cos, sin)  # type: ignore[no-untyped-call]
    return Pair(re, im)


def multiply_conjugate(a: Pair, b: Pair) -> Pair:
    """a conj(b) = (a_re b_re + a_im b_im) + i (a_im b_re - a_re b_im)."""
    return Pair(
        torch.addcmul(a.re * b.re, a.im, b.im),
        torch.addcmul(a.im * b.re, a.re, b.im, value=-1),
    )


def from_polar(u: Tensor, p: Pair) -> Pair:
    """exp(u) p, at least float32."""
    return scale(widened(p), widen(u).exp())


def weighted_sum(weights: Tensor, x: Tensor) -> Tensor:
    """sum_t w_t x_t for weights (B, T) and x (B, T, D) -> (B, D), at least float32."""
    with no_autocast(x):
        return torch.matmul(weights.unsqueeze(-2), widen(x)).squeeze(-2)


def token_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of real x (B, T, D) over real tokens -> (B, 1, D), at least float32; 0 where a row has no real token.

    `mask` (B, T) bool, True = real token; None = all are real.
    """
    x = widen(x)
    if mask is None:
        # Not mean(): its backward pass fills a tensor of x's size, that of sum() expands without a copy.
        return x.sum(-2, keepdim=True) * (1.0 / x.shape[-2])
    kept = mask.unsqueeze(-1)
    return x.masked_fill(~kept, 0.0).sum(-2, keepdim=True) / kept.sum(-2, keepdim=True).clamp(min=1)


def running_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """y_t = sum_{i<=t} m_i x_i / max(1, sum_{i<=t} m_i) for real x (B, T, D) -> (B, T, D), at least float32."""
    x = widen(x)
    if mask is None:
        return running_sum(x) / torch.arange(1, x.shape[-2] + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
    kept = mask.unsqueeze(-1)
    return running_sum(x.masked_fill(~kept, 0.0)) / running_sum(kept.to(x.dtype)).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension of scores (B, T), at least float32; padding gets exactly 0 weight."""
    scores = widen(scores)
    if mask is None:
        return scores.softmax(-1)
    low = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, low).softmax(-1).masked_fill(~mask, 0.0)
