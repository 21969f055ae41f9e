"""Generated series with what makes real ones hard: a trend, two seasons, shifts of level, and noise that remembers.

Symbols: t step, c channel, P_1 = 24 and P_2 = 168 the periods (a day and a week of hours), k harmonic.
    x_c(t) = g_c t/1000 + sum_i sum_{k=1,2} a_cik sin(2 pi k t / P_i + f_cik) + s_c(t) + e_c(t)
    s_c    level: a step of size N(0, SHIFT) at each step with probability 1/SHIFT_EVERY
    e_c    noise: e(t) = MEMORY e(t-1) + N(0, 1 - MEMORY^2) NOISE
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = 7
PERIODS = (24, 168)
SHIFT_EVERY = 500
"""Mean number of steps between two shifts of a channel's level."""
SHIFT = 1.0
"""Standard deviation of a shift, where a season's amplitude is about 1."""
NOISE = 0.5
"""Standard deviation of the noise."""
MEMORY = 0.8
"""Share of the noise that is left one step later."""


def seasonal(steps: int, seed: int) -> NDArray[np.float64]:
    """The series x (steps, CHANNELS). Fewer steps of one seed are another series, not the start of a longer one."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps, dtype=np.float64)
    trend = rng.normal(0.0, 0.5, CHANNELS) * t[:, None] / 1000
    seasons = np.zeros((steps, CHANNELS))
    for period in PERIODS:
        for harmonic in (1, 2):
            amplitude = rng.uniform(0.5, 1.5, CHANNELS) / harmonic
            phase = rng.uniform(0.0, 2 * np.pi, CHANNELS)
            seasons += amplitude * np.sin(2 * np.pi * harmonic * t[:, None] / period + phase)
    shifts = (rng.random((steps, CHANNELS)) < 1 / SHIFT_EVERY) * rng.normal(0.0, SHIFT, (steps, CHANNELS))
    noise = rng.normal(0.0, NOISE, (steps, CHANNELS))
    noise[1:] *= (1 - MEMORY**2) ** 0.5
    for step in range(1, steps):
        noise[step] += MEMORY * noise[step - 1]
    series: NDArray[np.float64] = trend + seasons + shifts.cumsum(0) + noise
    return series
