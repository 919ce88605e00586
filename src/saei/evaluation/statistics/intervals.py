"""Confidence intervals of means and shares, and an exact test of paired differences."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, t

CONFIDENCE = 0.95
"""Of all intervals."""

POWER = 0.8
"""Of a test that finds a difference."""

MOST_FLIPS = 20
"""Differences up to which all sign patterns are looked at."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean (or a share) and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Return Student's t-interval of the mean of independent values; of paired ones, pass their differences.

    One value leaves the interval unbounded, none gives NaN throughout.
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + CONFIDENCE) / 2, df=len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def proportion_interval(successes: int, trials: int) -> Interval:
    """Return the exact (Clopper-Pearson) interval of a share; no trial leaves it between 0 and 1."""
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    found = binomtest(successes, trials).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return Interval(successes / trials, float(found.low), float(found.high))


def mcnemar(better: int, worse: int, count: int) -> tuple[Interval, float]:
    """Return the difference of two paired shares with its interval, and the p value of the test that this belongs to.

    Args:
        better: Pairs of which only the second is right.
        worse: Pairs of which only the first is.
        count: All pairs.

    The test is McNemar's: whether ``better`` is half of the pairs that changed. The interval is that of the share of
    better ones among these, from -1 to 1, times that of the share that changed, both exact (Clopper-Pearson). It leaves
    out 0 exactly where p is below .05, and covers at least 95 %, since both would have to be wrong.
    """
    changed = better + worse
    wins, share = proportion_interval(better, changed), proportion_interval(changed, count)
    low, high = 2 * wins.low - 1, 2 * wins.high - 1
    found = Interval(
        (better - worse) / count,
        low * (share.low if low > 0 else share.high),
        high * (share.high if high > 0 else share.low),
    )
    return found, float(binomtest(better, changed).pvalue) if changed else 1.0


def equal_differences(same: float, count: int) -> tuple[Interval, float]:
    """Return the interval of a mean of differences that are all the same, and its p value.

    Without a spread there is no t-interval. Differences lie between -1 and 1, and other ones may be as frequent as an
    exact interval allows after ``count`` without any; the interval is where the mean would then be. p is the level at
    which that interval reaches 0: ``2 (1 + |same|) ** -count``, for 1 and -1 that of McNemar's test.
    """
    others = proportion_interval(0, count).high
    found = Interval(same, same - others * (same + 1), same + others * (1 - same))
    return found, min(1.0, 2 * (1 + abs(same)) ** -count)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p value of paired differences under random signs.

    It is the share of all ``2**n`` sign patterns whose absolute sum reaches the observed one.

    Raises:
        ValueError: For more than ``MOST_FLIPS`` differences.
    """
    if len(differences) > MOST_FLIPS:
        raise ValueError(f"All sign patterns are looked at: {MOST_FLIPS} differences at most.")
    observed = abs(sum(differences)) * (1 - 1e-12)  # sums of the same numbers in another order differ by rounding
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(sign * value for sign, value in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(value >= observed for value in sums) / len(sums)


def clustered_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Return the interval of the mean of values that are independent only between clusters.

    The variance is that of the sums of deviations over clusters (Liang and Zeger 1986), times ``C / (C - 1)`` for C
    clusters, with Student's t of C - 1 degrees of freedom. With one value a cluster it is ``mean_interval``.
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    mean = statistics.fmean(values)
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    count = len(sums)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    variance = count / (count - 1) * math.fsum(one * one for one in sums.values()) / len(values) ** 2
    half = float(t.ppf((1 + CONFIDENCE) / 2, df=count - 1)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for testing several hypotheses at once (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def t_test_p(found: Interval, count: int) -> float:
    """Return the two-sided p value of Student's t-test for a mean of 0, from the interval of ``count`` values."""
    if count < 2:
        return 1.0
    half = found.high - found.mean
    if half == 0:
        return float(found.mean == 0)
    return 2 * float(t.sf(abs(found.mean) / half * t.ppf((1 + CONFIDENCE) / 2, df=count - 1), df=count - 1))


def detectable(found: Interval, count: int) -> float:
    """Return the true mean that a t-test of ``count`` values of this spread finds with a probability of ``POWER``.

    An approximation by two quantiles of Student's t.
    """
    if count < 2:
        return math.inf
    limit, more = (float(t.ppf(share, df=count - 1)) for share in ((1 + CONFIDENCE) / 2, POWER))
    return (found.high - found.low) / 2 * (1 + more / limit)
