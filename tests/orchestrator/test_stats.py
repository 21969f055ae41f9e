"""Intervals against scipy, textbook figures, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cvkan.orchestrator.stats import mean_interval, paired_difference

values = arrays.arrays(np.float64, st.integers(2, 30), elements=st.integers(-1_000_000, 1_000_000).map(lambda n: n / 1000))


# Student (1908): additional hours of sleep by two drugs, the same ten patients (R's data set `sleep`).
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_students_sleep_data() -> None:
    d = paired_difference(DRUG_1, DRUG_2)
    assert d.n == 10
    assert d.mean == pytest.approx(-1.58)
    # R: t.test(extra ~ group, data = sleep, paired = TRUE) gives -2.4598858 and -0.7001142
    assert (d.low, d.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert d.half == pytest.approx(0.8798858, abs=1e-7)


@given(values, st.floats(0.5, 0.999))
def test_agrees_with_scipy(x: np.ndarray, confidence: float) -> None:
    found = mean_interval(x, confidence)
    expected = scipy.stats.t.interval(confidence, len(x) - 1, loc=x.mean(), scale=scipy.stats.sem(x)) if np.ptp(x) > 0 else (x[0], x[0])
    assert found.n == len(x)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(values, st.floats(-100, 100))
def test_interval_holds_the_mean_and_moves_with_the_values(x: np.ndarray, shift: float) -> None:
    found, moved = mean_interval(x), mean_interval(x + shift)
    assert found.low <= found.mean <= found.high
    assert moved.mean == pytest.approx(found.mean + shift, abs=1e-6)
    assert moved.half == pytest.approx(found.half, rel=1e-6, abs=1e-6)


@given(values)
def test_a_difference_has_the_opposite_sign_the_other_way_round(x: np.ndarray) -> None:
    y = x[::-1]
    one, other = paired_difference(x, y), paired_difference(y, x)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low), abs=1e-6)


def test_one_value_has_a_mean_and_no_interval() -> None:
    found = mean_interval([0.5])
    assert (found.mean, found.n) == (0.5, 1)
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.half)


def test_no_value_has_no_mean() -> None:
    found = mean_interval([])
    assert found.n == 0
    assert math.isnan(found.mean) and math.isnan(found.low) and math.isnan(found.high)


def test_only_common_seeds_are_paired() -> None:
    a = [1.0, math.nan, 3.0, 4.0]
    b = [0.5, 2.0, 2.0, math.nan]
    assert paired_difference(a, b) == mean_interval([0.5, 1.0])
    assert paired_difference([math.nan], [1.0]).n == 0


def test_pairing_removes_what_seeds_share() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 10, 20)
    a, b = shared + 1 + generator.normal(0, 0.01, 20), shared + generator.normal(0, 0.01, 20)
    assert mean_interval(a).half > 1
    assert paired_difference(a, b).half < 0.02


@pytest.mark.parametrize("x", [[1.0, math.nan], [1.0, math.inf], [[1.0, 2.0]]])
def test_what_is_no_list_of_finite_values_is_refused(x: list[float]) -> None:
    with pytest.raises(ValueError):
        mean_interval(x)


def test_unequal_lengths_and_odd_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match="place for every seed"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=95)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 30])
def test_95_per_cent_of_the_intervals_hold_the_truth(n: int) -> None:
    draws = np.random.default_rng(n).normal(0.7, 0.05, (3000, n))
    found = [mean_interval(draw) for draw in draws]
    assert np.mean([interval.low <= 0.7 <= interval.high for interval in found]) == pytest.approx(0.95, abs=0.02)


def test_95_per_cent_of_paired_intervals_hold_the_true_difference() -> None:
    generator = np.random.default_rng(7)
    seeds = generator.normal(0, 1, (3000, 5))
    a, b = seeds + 0.3 + generator.normal(0, 0.2, seeds.shape), seeds + generator.normal(0, 0.2, seeds.shape)
    found = [paired_difference(left, right) for left, right in zip(a, b, strict=True)]
    assert np.mean([interval.low <= 0.3 <= interval.high for interval in found]) == pytest.approx(0.95, abs=0.02)
