"""Confidence intervals of means and shares, and an exact test of paired differences."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, t


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean (or a share) and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return Student's t-interval of the mean of independent values; of paired ones, pass their differences.

    One value leaves the interval unbounded, none gives NaN throughout.
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + confidence) / 2, df=len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def proportion_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Return the exact (Clopper-Pearson) interval of a share; no trial leaves it between 0 and 1."""
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    found = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    return Interval(successes / trials, float(found.low), float(found.high))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p value of paired differences under random signs.

    It is the share of all ``2**n`` sign patterns whose absolute sum reaches the observed one.

    Raises:
        ValueError: For more than 20 differences.
    """
    if len(differences) > 20:
        raise ValueError("All sign patterns are looked at: 20 differences at most.")
    observed = abs(sum(differences)) * (1 - 1e-12)  # sums of the same numbers in another order differ by rounding
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(sign * value for sign, value in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(value >= observed for value in sums) / len(sums)
