"""Norms against plain formulas in torch.complex128."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cvkan.models.norms import NORMS, BatchNorm, LayerNorm
from cvkan.models.output import Pair


def complex_of(z: Pair) -> Tensor:
    return torch.complex(z.re.double(), z.im.double())


def tokens(seed: int = 0) -> tuple[Pair, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    re = torch.randn(4, 6, 5, generator=generator) * 3 + 1
    im = 0.5 * re + torch.randn(4, 6, 5, generator=generator) - 2
    z = Pair(re, im)
    return z, complex_of(z)


def close(actual: Pair, expected: Tensor) -> None:
    torch.testing.assert_close(complex_of(actual), expected.to(torch.complex128), rtol=1e-4, atol=1e-4)


def test_none_changes_nothing() -> None:
    z, c = tokens()
    close(NORMS["none"](5)(z, None), c)


def test_layer() -> None:
    z, c = tokens()
    norm = LayerNorm(5)
    with torch.no_grad():
        norm.gain.mul_(1.5)
        norm.bias_re.add_(0.25)
        norm.bias_im.sub_(2.0)
    centred = c - c.mean(-1, keepdim=True)
    close(norm(z, None), 1.5 * centred / (centred.abs() ** 2).mean(-1, keepdim=True).sqrt() + (0.25 - 2j))


def test_rms() -> None:
    z, c = tokens()
    close(NORMS["rms"](5)(z, None), c / (c.abs() ** 2).mean(-1, keepdim=True).sqrt())


def test_logmag_standardises_magnitudes_and_keeps_phases() -> None:
    z, c = tokens()
    u = c.abs().log()
    expected = ((u - u.mean(-1, keepdim=True)) / u.std(-1, keepdim=True, correction=0)).exp() * c / c.abs()
    close(NORMS["logmag"](5)(z, None), expected)


def inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    return root


def whitened(c: Tensor) -> Tensor:
    """c (N, D) whitened per channel by the eigenvectors of its 2x2 covariance, over sqrt(2)."""
    columns = []
    for channel in c.T:
        parts = torch.stack((channel.real, channel.imag))
        centred = parts - parts.mean(1, keepdim=True)
        covariance = centred @ centred.T / centred.shape[1] + 1e-5 * torch.eye(2, dtype=torch.float64)
        white = inverse_root(covariance) @ centred / math.sqrt(2)
        columns.append(torch.complex(white[0], white[1]))
    return torch.stack(columns, dim=1)


def test_batch_whitens_in_training() -> None:
    z, c = tokens()
    norm = BatchNorm(5)
    close(norm(z, None), whitened(c.reshape(-1, 5)).reshape(4, 6, 5))


def test_batch_applies_its_affine_map() -> None:
    z, c = tokens()
    norm = BatchNorm(5)
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([2.0, 3.0, 0.5])[:, None].expand(3, 5))
        norm.bias.copy_(torch.tensor([1.0, -1.0])[:, None].expand(2, 5))
    white = whitened(c.reshape(-1, 5)).reshape(4, 6, 5) * math.sqrt(2)
    close(norm(z, None), torch.complex(2 * white.real + 0.5 * white.imag + 1, 0.5 * white.real + 3 * white.imag - 1))


def test_batch_ignores_padding_and_keeps_it_out_of_its_statistics() -> None:
    z, c = tokens()
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 3:] = False
    mask[2, :] = False
    padded = Pair(z.re.masked_fill(~mask[..., None], 1e4), z.im.masked_fill(~mask[..., None], -1e4))
    norm = BatchNorm(5)
    out = complex_of(norm(padded, mask))[mask]
    torch.testing.assert_close(out, whitened(c[mask]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_mean[0].double(), 0.1 * c[mask].real.mean(0), rtol=1e-4, atol=1e-4)


def test_batch_in_evaluation_uses_what_it_saw() -> None:
    z, c = tokens()
    norm = BatchNorm(5)
    for _ in range(200):
        norm(z, None)
    norm.eval()
    single = Pair(z.re[:1], z.im[:1])
    close(norm(single, None), whitened(c.reshape(-1, 5)).reshape(4, 6, 5)[:1])


def test_every_norm_is_finite_on_zeros_and_on_flat_channels() -> None:
    for build in NORMS.values():
        for z in (Pair(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)), Pair(torch.full((2, 3, 4), 1e3), torch.full((2, 3, 4), 1e3))):
            leaf = Pair(z.re.requires_grad_(), z.im.requires_grad_())
            out = build(4)(leaf, None)
            torch.autograd.backward(out.re.sum() + out.im.sum())
            for part in (*out, leaf.re.grad, leaf.im.grad):
                assert part is not None and part.isfinite().all()
