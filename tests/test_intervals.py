"""Intervals and tests against scipy's, and against cases known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp, ttest_rel

from saei.evaluation.statistics.intervals import mean_interval, proportion_interval, sign_flip_p


@pytest.mark.parametrize("size", [2, 3, 64])
def test_equals_the_interval_of_the_t_test(size: int) -> None:
    values = np.random.default_rng(size).normal(1, 3, size).tolist()
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean_interval(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_differences_of_pairs() -> None:
    before, after = np.random.default_rng(0).normal(size=(2, 12))
    expected = ttest_rel(after, before).confidence_interval(0.95)
    found = mean_interval((after - before).tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_few_values() -> None:
    # Two values, one degree of freedom: t = 12.706, the standard error is half their distance.
    found = mean_interval([0.0, 2.0])
    assert (found.low, found.high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)
    same = mean_interval([0.5, 0.5, 0.5])
    assert (same.low, same.mean, same.high) == (0.5, 0.5, 0.5)
    one = mean_interval([3.0])
    assert (one.low, one.mean, one.high) == (-math.inf, 3.0, math.inf)
    assert math.isnan(mean_interval([]).mean)


def test_shares() -> None:
    none = proportion_interval(0, 8)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 8)))  # no success: (1 - p)^8 = .025
    some = proportion_interval(7, 8)
    assert some.mean == 7 / 8
    assert some.low == pytest.approx(0.4735, abs=1e-4)
    assert some.high == pytest.approx(0.9968, abs=1e-4)
    assert (proportion_interval(0, 0).low, proportion_interval(0, 0).high) == (0.0, 1.0)


def test_sign_flips() -> None:
    assert sign_flip_p([1.0] * 5) == 2 / 32  # five pairs cannot reach .05
    assert sign_flip_p([1.0, 2.0, -3.0]) == 1.0
    differences = np.random.default_rng(3).normal(0.4, 1, 9)
    expected = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences.tolist()) == pytest.approx(expected.pvalue, abs=1e-12)
    with pytest.raises(ValueError, match="20"):
        sign_flip_p([0.0] * 21)
