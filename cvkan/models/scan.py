"""Running sums along tokens, at a cost linear in their number, deterministic on every device.

Symbols: x (..., T, D) real, y (..., T, D) its sums, T tokens, c chunk, lambda decay.
    running_sum   y_t = sum_{i<=t} x_i
    decayed_sum   y_t = lambda y_{t-1} + x_t = sum_{i<=t} lambda^(t-i) x_i
    window_sum    y_t = sum_{t-W<i<=t} x_i
Method: T is cut into chunks of c tokens; within a chunk the sums are one product with a triangular (c, c) matrix, and
the sums of whole chunks, c times fewer, are carried over. torch.cumsum is not deterministic on CUDA and slower on a
CPU; doubling (Hillis and Steele 1986) makes log2(T) passes over memory.
All are in float32 at least (bf16 sums of phases are useless at a few hundred tokens, fp16 overflows at some 10^4). No
finite value flows backwards in time: changing token t leaves every y before t bit-equal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from cvkan.models.precision import no_autocast, widen

CHUNK = 32
"""Measured on a CPU with B16 T256 D128: 8 takes 1.5 times as long, 64 1.3 times; 16 is equal."""
DECAY_CHUNK = 16
"""Powers of lambda from 0 to c - 1 and their inverses must be finite in float32."""
LOWEST_DECAY = 0.05
"""Of `decayed_sum`: 0.05^-15 = 3e19, so that |x| may be up to 1e18."""


def running_sum(x: Tensor) -> Tensor:
    """y_t = sum_{i<=t} x_i over the tokens of x (..., T, D), at least float32."""
    y: Tensor = _RunningSum.apply(widen(x), False)  # type: ignore[no-untyped-call]
    return y


def window_sum(x: Tensor, size: int) -> Tensor:
    """y_t = sum of the last `size` tokens up to t of x (..., T, D), at least float32.

    A window is the first part of a block of `size` tokens and the last of the one before it (van Herk 1992): nothing is
    subtracted, so rounding does not grow with T and sums of positive terms are positive.
    """
    tokens = x.shape[-2]
    if tokens <= size:
        return running_sum(x)
    blocks = _chunks(widen(x), size)
    first: Tensor = _RunningSum.apply(blocks, False)  # type: ignore[no-untyped-call]
    last: Tensor = _RunningSum.apply(blocks[..., :-1, 1:, :], True)  # type: ignore[no-untyped-call]
    # Block b - 1 from token j + 1 on stands at block b, token j; before the first block there is nothing.
    return (first + F.pad(last, (0, 0, 0, 1, 1, 0))).flatten(-3, -2)[..., :tokens, :]


def decayed_sum(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = decay y_{t-1} + x_t over the tokens of x (..., T, D), at least float32. decay (1) or (D), LOWEST_DECAY to 1."""
    y: Tensor = _DecayedSum.apply(widen(x), widen(decay))  # type: ignore[no-untyped-call]
    return y


class _RunningSum(Function):
    """From the first token on, or `reverse`: from the last. The gradient is the same sum in the other direction."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, reverse: bool) -> Tensor:
        with no_autocast(x):
            return _sum(x, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.reverse = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        with no_autocast(g):
            return _sum(g, not ctx.reverse), None


class _DecayedSum(Function):
    """s_i = sum_{t>=i} lambda^(t-i) g_t: grad_x_i = s_i, grad_lambda = sum_t s_t y_{t-1}."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, decay: Tensor) -> Tensor:
        with no_autocast(x):
            return _decayed(x, decay, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        decay, y = ctx.saved_tensors
        with no_autocast(g):
            s = _decayed(g, decay, True)
        # One channel after the other, or all of them for one decay.
        slope = (s[..., 1:, :] * y[..., :-1, :]).flatten(0, -2).sum(0)
        return s, slope if decay.shape[-1] > 1 else slope.sum(-1, keepdim=True)


def _triangle(n: int, like: Tensor, reverse: bool) -> Tensor:
    ones = torch.ones(n, n, dtype=like.dtype, device=like.device)
    return ones.triu() if reverse else ones.tril()


def _carry(totals: Tensor, reverse: bool) -> Tensor:
    """Sums of chunks (..., n, D) to what each chunk takes over from those before it (after it, if reversed)."""
    return F.pad(totals[..., 1:, :], (0, 0, 0, 1)) if reverse else F.pad(totals[..., :-1, :], (0, 0, 1, 0))


def _sum(x: Tensor, reverse: bool) -> Tensor:
    tokens = x.shape[-2]
    if tokens <= CHUNK:
        return torch.matmul(_triangle(tokens, x, reverse), x)
    chunks = _chunks(x, CHUNK)
    inside = torch.matmul(_triangle(CHUNK, x, reverse), chunks)
    totals = _sum(inside[..., 0 if reverse else -1, :], reverse)
    return inside.add_(_carry(totals, reverse).unsqueeze(-2)).flatten(-3, -2)[..., :tokens, :]


def _chunks(x: Tensor, size: int) -> Tensor:
    """x (..., T, D) -> (..., n, size, D), zeros after the last token."""
    missing = -x.shape[-2] % size
    x = F.pad(x, (0, 0, 0, missing)) if missing else x
    return x.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def _decayed(x: Tensor, decay: Tensor, reverse: bool) -> Tensor:
    """sum_i lambda^(t-i) x_i = lambda^t sum_i (lambda^-i x_i), in chunks short enough for both powers.

    The powers never vanish where a term is large: the last term of every sum is multiplied by one and its inverse.
    """
    tokens = x.shape[-2]
    size = min(DECAY_CHUNK, tokens)
    steps = torch.arange(size, dtype=decay.dtype, device=decay.device).unsqueeze(-1)
    down = decay ** (steps.flip(0) if reverse else steps)
    inside = torch.matmul(_triangle(size, x, reverse), _chunks(x, size) / down) * down
    if tokens > size:
        totals = _decayed_by_doubling(inside[..., 0 if reverse else -1, :], decay**size, reverse)
        inside = torch.addcmul(inside, _carry(totals, reverse).unsqueeze(-2), down * decay)
    return inside.flatten(-3, -2)[..., :tokens, :]


def _decayed_by_doubling(x: Tensor, decay: Tensor, reverse: bool) -> Tensor:
    """The same for decays down to 0: after the step with shift k every y_t is the sum of its last 2k terms."""
    shift = 1
    while shift < x.shape[-2]:
        moved = F.pad(x[..., shift:, :], (0, 0, 0, shift)) if reverse else F.pad(x[..., :-shift, :], (0, 0, shift, 0))
        x = torch.addcmul(x, moved, decay)
        decay = decay * decay
        shift *= 2
    return x
