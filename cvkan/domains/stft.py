"""From waveforms to what models get: the short-time Fourier transform of whole batches, on the device they lie on.

Symbols: B clips of n samples x in -32768 ... 32767, N = n_fft, w the periodic Hann window of N samples, F frames, K = N/2 + 1 bins.
    Z (B, F, K) = sum over j of w_j x_(f hop - N/2 + j) / 32768 e^(-2 pi i j k / N), x reflected at its ends (torch.stft's `center`)
    z = a Z, where the training part has mean |z|^2 = 1
    compress none: z;  log: b log(1 + |z| / FLOOR) z / |z|, where the training part has mean square 1 again
Z is rounded to float16 wherever it is computed, so that stored and computed
frames are the same bits on one device; another device's FFT may differ in the last ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Compress = Literal["none", "log"]

FULL_SCALE = 32768.0
"""The int16 that stands for 1."""
FLOOR = 0.01
"""Magnitude, over the root mean square of the training part, from which `log` compresses; below it z stays in proportion."""


def n_frames(samples: int, hop: int) -> int:
    """Frames of a clip of so many samples."""
    return 1 + samples // hop


def n_bins(n_fft: int) -> int:
    """Bins of a frame: those of frequencies from 0 to half the sample rate."""
    return n_fft // 2 + 1


class Transform:
    """Clips (B, n) int16 to frames (B, F, K, 2), float16, re and im last."""

    def __init__(self, n_fft: int, hop: int) -> None:
        self.n_fft = n_fft
        self.hop = hop
        self._window = torch.hann_window(n_fft, dtype=torch.float64).div(FULL_SCALE).float()
        self._by_device: dict[torch.device, Tensor] = {}

    def __call__(self, clips: Tensor) -> Tensor:
        # The window is copied to a device once: a copy a batch would wait for it.
        if clips.device not in self._by_device:
            self._by_device[clips.device] = self._window.to(clips.device)
        window = self._by_device[clips.device]
        z = torch.stft(clips.float(), self.n_fft, self.hop, window=window, center=True, pad_mode="reflect", return_complex=True)
        return torch.view_as_real(z.transpose(1, 2)).half()


class EncodeFrames:
    """Clips (B, n) int16, or frames (B, F, K, 2) float16 of a Transform, to model inputs (B, F, K, 2) float32."""

    def __init__(self, transform: Transform | None, scale: float, compress: Compress, gain: float) -> None:
        """`transform`: None where frames come in; `scale` is a and `gain` is b at the head of this file."""
        self.transform = transform
        self.scale = scale
        self.compress = compress
        self.gain = gain

    def __call__(self, x: Tensor) -> Tensor:
        frames = x if self.transform is None else self.transform(x)
        z = frames.float().mul_(self.scale)
        return z if self.compress == "none" else compressed(z).mul_(self.gain)


def compressed(z: Tensor) -> Tensor:
    """log(1 + |z| / FLOOR) z / |z| of z (..., 2); 0 at 0."""
    size = torch.view_as_complex(z).abs().unsqueeze(-1)
    factor = (size / FLOOR).log1p_().div_(size.clamp_(min=1e-20))
    return z * factor


class EncodeClips:
    """Clips (B, n) int16 to model inputs (B, n) float32."""

    def __init__(self, scale: float) -> None:
        """`scale`: one over the root mean square of the training part, in the clips' unit."""
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        return x.float().mul_(self.scale)


def constants(transform: Transform, clips: Tensor, compress: Compress) -> tuple[float, float]:
    """a and b, see the head of this file, measured on `clips` (B, n) int16; 1 where all of them are silent.

    Four digits: machines differ in a Fourier transform's last bits, and must not differ in what they train on.
    """
    frames = [transform(piece).float() for piece in torch.split(clips, 64)]
    scale = _to_unit(frames)
    return scale, _to_unit([compressed(piece * scale) for piece in frames]) if compress == "log" else 1.0


def _to_unit(frames: list[Tensor]) -> float:
    """One over the root of the mean |z|^2 of frames (..., 2)."""
    total = sum(float(piece.square().sum(dtype=torch.float64)) for piece in frames)
    count = sum(piece.numel() // 2 for piece in frames)
    return float(f"{(count / total) ** 0.5:.4g}") if total else 1.0
