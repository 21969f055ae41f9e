"""Normalisations of complex tokens, applied after each block.

Symbols: z (B, T, D) a token's channels, g a real gain, b a complex bias, u = log|z|, p = z/|z|.
Sources: the CV-KAN research log, which found that normalising magnitudes destroys the signal (hence `none` by
default); `batch`: Trabelsi et al. 2018, Deep Complex Networks; `rms`: Zhang and Sennrich 2019 without a gain.
A norm is a module `forward(z: Pair, mask: Tensor | None) -> Pair` built from D, and a line in NORMS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cvkan.models.output import Pair
from cvkan.models.pairs import add, from_polar, polar, power, scale, subtract, widened

NORM_EPS = 1e-8
"""Added to a mean square before its root: small against any signal, large enough for finite gradients of zeros."""


class NoNorm(nn.Module):
    """z as it is."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        return z


class LayerNorm(nn.Module):
    """g (z - mean_D z) / sqrt(mean_D |z - mean_D z|^2) + b, with g (D) real and b (D) complex."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d))
        self.bias_re = nn.Parameter(torch.zeros(d))
        self.bias_im = nn.Parameter(torch.zeros(d))

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        centred = subtract(z, Pair(z.re.mean(-1, keepdim=True), z.im.mean(-1, keepdim=True)))
        inverse = (power(centred).mean(-1, keepdim=True) + NORM_EPS).rsqrt()
        return add(scale(centred, inverse * self.gain), Pair(self.bias_re, self.bias_im))


class RMSNorm(nn.Module):
    """z / sqrt(mean_D |z|^2), without parameters."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        return scale(widened(z), (power(z).mean(-1, keepdim=True) + NORM_EPS).rsqrt())


class LogMagnitudeNorm(nn.Module):
    """exp((u - mean_D u) / std_D u) p: magnitudes standardised on a log scale, phases kept."""

    def __init__(self, d: int) -> None:
        super().__init__()

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        u, p = polar(z)
        centred = u - u.mean(-1, keepdim=True)
        return from_polar(centred * (centred.square().mean(-1, keepdim=True) + NORM_EPS).rsqrt(), p)


class BatchNorm(nn.Module):
    """Whitens (re, im) per channel over batch and real tokens, then applies a 2x2 affine map and a complex bias.

    M = [[v_rr, v_ri], [v_ri, v_ii]] + eps I, s = sqrt(det M), t = sqrt(tr M + 2s), M^-1/2 = (M + s I)^-1 t.
    Since det(M + s I) = s t^2, M^-1/2 = [[v_ii + s, -v_ri], [-v_ri, v_rr + s]] / (s t).
    The affine map starts as I / sqrt(2), so that mean |z|^2 = 1. Covariances are biased, in the running ones too.
    """

    EPS = 1e-5
    MOMENTUM = 0.1
    FLAT = 1e-7
    """det M is kept above this share of (tr M)^2: float32 cannot tell a smaller one from 0."""

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        half = torch.full((d,), 0.5).sqrt()
        self.gain = nn.Parameter(torch.stack((half, half, torch.zeros(d))))
        """(3, D): rr, ii, ri."""
        self.bias = nn.Parameter(torch.zeros(2, d))
        self.register_buffer("running_mean", torch.zeros(2, d))
        self.register_buffer("running_covariance", torch.stack((half, half, torch.zeros(d))))

    def _statistics(self, z: Pair, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean (2, D) and covariance rr, ii, ri (3, D) over batch and real tokens."""
        if mask is None:
            center = torch.stack((z.re.mean((0, 1)), z.im.mean((0, 1))))
            re, im = z.re - center[0], z.im - center[1]
            return center, torch.stack(((re * re).mean((0, 1)), (im * im).mean((0, 1)), (re * im).mean((0, 1))))
        kept = mask.unsqueeze(-1)
        n = kept.sum().clamp(min=1)
        re, im = z.re.masked_fill(~kept, 0.0), z.im.masked_fill(~kept, 0.0)
        center = torch.stack((re.sum((0, 1)), im.sum((0, 1)))) / n
        re, im = (re - center[0]).masked_fill(~kept, 0.0), (im - center[1]).masked_fill(~kept, 0.0)
        return center, torch.stack(((re * re).sum((0, 1)), (im * im).sum((0, 1)), (re * im).sum((0, 1)))) / n

    def _remember(self, center: Tensor, covariance: Tensor) -> None:
        keep = 1.0 - self.MOMENTUM
        self.running_mean.mul_(keep).add_(center.detach(), alpha=self.MOMENTUM)
        self.running_covariance.mul_(keep).add_(covariance.detach(), alpha=self.MOMENTUM)

    def forward(self, z: Pair, mask: Tensor | None = None) -> Pair:
        z = widened(z)
        if self.training:
            center, covariance = self._statistics(z, mask)
            self._remember(center, covariance)
        else:
            center, covariance = self.running_mean, self.running_covariance
        w_rr, w_ii, w_ri = self._inverse_root(covariance)
        g_rr, g_ii, g_ri = self.gain.unbind(0)
        # gain @ M^-1/2 and the bias are folded into one affine map per channel.
        a, b = g_rr * w_rr + g_ri * w_ri, g_rr * w_ri + g_ri * w_ii
        c, d = g_ri * w_rr + g_ii * w_ri, g_ri * w_ri + g_ii * w_ii
        re, im = z.re - center[0], z.im - center[1]
        return Pair(torch.addcmul(self.bias[0] + re * a, im, b), torch.addcmul(self.bias[1] + re * c, im, d))

    def _inverse_root(self, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """rr, ii, ri of M^-1/2, each (D)."""
        v_rr, v_ii, v_ri = covariance[0] + self.EPS, covariance[1] + self.EPS, covariance[2]
        trace = v_rr + v_ii
        s = torch.maximum(v_rr * v_ii - v_ri * v_ri, self.FLAT * trace * trace).sqrt()
        inverse = 1.0 / (s * (trace + 2.0 * s).sqrt())
        return (v_ii + s) * inverse, (v_rr + s) * inverse, -v_ri * inverse


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": NoNorm,
    "layer": LayerNorm,
    "rms": RMSNorm,
    "batch": BatchNorm,
    "logmag": LogMagnitudeNorm,
}
"""From the name of a norm to its module, built from the number of channels D."""
