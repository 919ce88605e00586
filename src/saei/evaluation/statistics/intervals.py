"""Confidence intervals of means and shares, and the p values of tests on paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t

CONFIDENCE = 0.95
"""Of all intervals, where nothing else is said."""

POWER = 0.8
"""The probability with which a test finds a difference, where the least detectable difference is given."""

MOST_FLIPS = 20
"""Up to so many differences all sign patterns are enumerated."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean (or a share) and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
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


def proportion_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact (Clopper-Pearson) interval of a share; no trial leaves it between 0 and 1."""
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    exact = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    return Interval(successes / trials, float(exact.low), float(exact.high))


def share_interval_from_error(share: float, error: float, count: int, responses: int) -> Interval | None:
    """Return the interval of a mean accuracy of which only the standard error is known, as ``share_interval`` has it.

    Zeros and ones get the exact binomial interval, other accuracies Student's t-interval.

    Args:
        share: The mean accuracy of the examples.
        error: Its standard error over the examples.
        count: How many examples there are, all independent.
        responses: To each of them.

    Returns:
        None where the examples' accuracies are equal and neither 0 nor 1: their spread says nothing.
    """
    if responses == 1 or (error == 0 and share in (0.0, 1.0)):
        return proportion_interval(round(share * count), count)
    if error == 0 or count < 2:
        return None
    half = float(t.ppf((1 + CONFIDENCE) / 2, df=count - 1)) * error
    return Interval(share, share - half, share + half)


def difference_interval(before: Interval, after: Interval) -> Interval:
    """Return the interval of the difference of two means that are independent, from the interval of each.

    The two are recovered variances (Zou and Donner 2008). Of two policies that answered the same examples it is wider
    than the paired interval wherever both find the same examples hard.
    """
    difference = after.mean - before.mean
    below = math.hypot(after.mean - after.low, before.high - before.mean)
    above = math.hypot(after.high - after.mean, before.mean - before.low)
    return Interval(difference, difference - below, difference + above)


def mcnemar(better: int, worse: int, count: int) -> tuple[Interval, float]:
    """Return the difference of two paired shares with its 95 % interval, and the p value of McNemar's exact test.

    The test asks whether as many pairs got better as got worse. The interval is a product of two exact
    (Clopper-Pearson) intervals: of the share of better ones among the pairs that changed, mapped to [-1, 1], and of the
    share of pairs that changed. It excludes 0 exactly where p is below .05, and it covers at least 95 %.

    Args:
        better: Pairs of which only the second is right.
        worse: Pairs of which only the first is right.
        count: All pairs.
    """
    changed = better + worse
    wins, share = proportion_interval(better, changed), proportion_interval(changed, count)
    low, high = 2 * wins.low - 1, 2 * wins.high - 1
    interval = Interval(
        (better - worse) / count,
        low * (share.low if low > 0 else share.high),
        high * (share.high if high > 0 else share.low),
    )
    return interval, float(binomtest(better, changed).pvalue) if changed else 1.0


def constant_difference(difference: float, count: int, confidence: float = CONFIDENCE) -> tuple[Interval, float]:
    """Return the interval of a mean difference when all ``count`` observed differences are equal, and the p value.

    Equal values have no spread, so there is no t-interval. But other examples may have another difference. After
    ``count`` equal ones, their share is at most the upper end of the exact (Clopper-Pearson) interval of 0 in
    ``count``. The ends of the interval are the means if that share of examples had the difference -1, or 1.

    Args:
        difference: What each observed difference is, between -1 and 1.
        count: How many there are.
        confidence: Of the interval.

    Returns:
        The interval; and p, the level at which it reaches 0: ``2 (1 + |difference|) ** -count``. For a difference of 1
        or -1 this is the p value of McNemar's test. Source: original.
    """
    unlike = proportion_interval(0, count, confidence).high
    interval = Interval(difference, difference - unlike * (difference + 1), difference + unlike * (1 - difference))
    return interval, min(1.0, 2 * (1 + abs(difference)) ** -count)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p value of paired differences under random signs.

    It is the share of all ``2**n`` sign patterns whose absolute sum reaches the observed one.

    Raises:
        ValueError: For more than ``MOST_FLIPS`` differences.
    """
    if len(differences) > MOST_FLIPS:
        raise ValueError(f"All sign patterns are enumerated: {MOST_FLIPS} differences at most.")
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    # The first sum has no sign flipped. Equal sums of these numbers in another order differ by rounding.
    observed = abs(sums[0]) - 1e-12 * sum(map(abs, differences))
    return float(np.mean(np.abs(sums) >= observed))


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
    variance = count / (count - 1) * math.fsum(value * value for value in sums.values()) / len(values) ** 2
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


def t_test_p(interval: Interval, count: int) -> float:
    """Return the two-sided p value of Student's t-test for a mean of 0, from the interval of ``count`` values."""
    if count < 2:
        return 1.0
    half = interval.high - interval.mean
    if half == 0:
        return float(interval.mean == 0)
    return 2 * float(t.sf(abs(interval.mean) / half * t.ppf((1 + CONFIDENCE) / 2, df=count - 1), df=count - 1))


def detectable(interval: Interval, count: int) -> float:
    """Return the true mean that a t-test of ``count`` values of this spread finds with a probability of ``POWER``.

    An approximation by two quantiles of Student's t.
    """
    if count < 2:
        return math.inf
    limit, power_quantile = (float(t.ppf(share, df=count - 1)) for share in ((1 + CONFIDENCE) / 2, POWER))
    return (interval.high - interval.low) / 2 * (1 + power_quantile / limit)
