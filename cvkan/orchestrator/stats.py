"""Means, paired differences and Student-t intervals over seeds: pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # scipy.stats gives the same quantile and takes ten times as long to import

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its confidence interval, in the unit of the values; `n` is the number of seeds behind it.

    Without a value (n = 0) mean, low and high are NaN; one value has a mean and no interval (low and high NaN).
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width: the number after the ±."""
        return (self.high - self.low) / 2


def mean_interval(x: Sequence[float] | Floats, confidence: float = 0.95) -> Interval:
    """Mean and Student-t interval of independent values.

        mean ± t_{(1 + confidence) / 2, n - 1} · s / √n,    s² = Σ (xᵢ - mean)² / (n - 1)

    Args:
        x: values (n,), one a seed, finite.
        confidence: share of such intervals that hold the true mean, where the values are normal.

    Raises:
        ValueError: a value that is not finite, more than one axis, or a confidence outside (0, 1).

    Source: Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    values = np.asarray(x, dtype=np.float64)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, without them; got {confidence}")
    if values.ndim != 1:
        raise ValueError(f"expected one axis, seeds; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values; got {values[~np.isfinite(values)][0]}")
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    error = math.sqrt(float(((values - mean) ** 2).sum()) / (n - 1) / n)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a: Sequence[float] | Floats, b: Sequence[float] | Floats, confidence: float = 0.95) -> Interval:
    """Mean and Student-t interval of dₛ = aₛ - bₛ over the seeds s that both arms have.

    Seeds share split, initial randomness and data order, so their noise cancels in the difference; `n` counts the pairs.

    Args:
        a, b: values (S,), place s of both belonging to the same seed; NaN where the seed has no value.

    Raises:
        ValueError: different lengths, or an infinite value.

    Source: the paired t-test's interval (Student 1908).
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"both arms need a place for every seed; got shapes {left.shape} and {right.shape}")
    common = ~(np.isnan(left) | np.isnan(right))
    return mean_interval(left[common] - right[common], confidence)
