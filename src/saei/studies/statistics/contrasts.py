"""Contrasts of arms: differences paired by base, their intervals and tests, and what they decide.

The unit of replication is the base: the runs of an arm from one base are averaged first, because they share its luck.
Bases that only one of two arms has are left out of their contrast and named.

The declared contrasts of a study are its primary ones. Their p values are adjusted together by Holm's method, and a
second time over the headline answers of several studies. All else is exploratory and decides nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np

from saei.evaluation.metrics import mean
from saei.evaluation.statistics.comparison import ROUNDING
from saei.evaluation.statistics.intervals import (
    CONFIDENCE,
    MOST_FLIPS,
    Interval,
    constant_difference,
    holm,
    mean_interval,
    sign_flip_p,
    t_test_p,
)
from saei.studies.statistics.power import detectable_effect

DRAWN_FLIPS = 99_999
"""Sign patterns that are drawn where there are too many to enumerate."""

Verdict = Literal["differs", "equal within the margin", "undecided", "exploratory"]


class RunKey(NamedTuple):
    """Which run of a study.

    Example:
        ``RunKey(arm="raise", base="lock-in-17", seed=0)``
    """

    arm: str
    base: str
    seed: int


class DeclaredContrast(Protocol):
    """What a study declares of a contrast."""

    @property
    def arm(self) -> str:
        """The arm of which the other is subtracted."""

    @property
    def against(self) -> str:
        """The arm that is subtracted."""

    @property
    def measure(self) -> str:
        """What is compared, such as ``eval/accuracy``."""

    @property
    def smallest_effect(self) -> float:
        """The smallest difference that would matter."""

    @property
    def margin(self) -> float:
        """Two arms are equal if the whole interval of their difference lies within plus and minus this."""


@dataclass(frozen=True, slots=True)
class ContrastResult:
    """Two arms compared over the bases that both were trained from.

    Attributes:
        arm: The arm of which the other is subtracted.
        against: The arm that is subtracted.
        measure: What is compared.
        smallest_effect: The smallest difference that would matter.
        margin: Half the width of the range that counts as equal.
        bases: The bases that both arms have, sorted.
        unpaired: Bases that only one of them has.
        differences: Of each base in ``bases``.
        means: Of ``against`` and of ``arm``, over ``bases``.
        interval: The mean difference and its 95 % interval, not adjusted for the number of contrasts. Student's t;
            that of ``constant_difference`` if all differences are equal.
        joint: The interval at the level of Holm's first step: those of all primary contrasts of the study hold at once
            with 95 %. For an exploratory contrast, as if it were one of them.
        t_p: The p value that belongs to the interval.
        p: Of the sign-flip test, which decides.
        test: ``exact sign flips`` or how many were drawn.
        adjusted: ``p`` with Holm's correction over the primary contrasts of the study; None if exploratory.
        headline: ``p`` with Holm's correction over the headline answers; None if this is none of them.
        detectable: The true difference that a t-test of these bases finds with a probability of 80 %: as the only
            contrast, and as Holm's first of the study's primary ones.

    Example:
        ``ContrastResult("saei", "random-direction", "eval/pass@16", smallest_effect=0.05, margin=0.03, bases=("b1",
        "b2", "b3"), unpaired=(), differences=(0.02, 0.05, -0.01), means=(0.61, 0.63), interval=Interval(0.02, -0.0545,
        0.0945), joint=Interval(0.02, -0.0545, 0.0945), t_p=0.3675, p=0.5, test="exact sign flips", adjusted=0.5,
        headline=None, detectable=(0.0979, 0.0979))``
    """

    arm: str
    against: str
    measure: str
    smallest_effect: float
    margin: float
    bases: tuple[str, ...]
    unpaired: tuple[str, ...]
    differences: tuple[float, ...]
    means: tuple[float, float]
    interval: Interval
    joint: Interval
    t_p: float
    p: float
    test: str
    adjusted: float | None
    headline: float | None
    detectable: tuple[float, float]

    @property
    def verdict(self) -> Verdict:
        """What the contrast decides.

        ``equal within the margin`` if the whole joint interval lies within it, even where it excludes 0: the difference
        is then smaller than what counts. ``differs`` if the interval excludes 0 and the adjusted p values are below
        .05. An interval that reaches outside of the margin and is not significant decides nothing: ``undecided``.
        """
        if self.adjusted is None:
            return "exploratory"
        if -self.margin <= self.joint.low and self.joint.high <= self.margin:
            return "equal within the margin"
        p = max(self.adjusted, self.headline or 0.0)
        excludes_zero = self.interval.low > 0 or self.interval.high < 0
        return "differs" if excludes_zero and p < 1 - CONFIDENCE else "undecided"

    @property
    def can_find(self) -> bool:
        """Whether the smallest effect that matters is found with a probability of 80 % or more, also after Holm."""
        return self.detectable[1] <= self.smallest_effect


def compare(
    table: Mapping[RunKey, Mapping[str, float]],
    primary: Sequence[DeclaredContrast],
    exploratory: Sequence[DeclaredContrast] = (),
    *,
    largest: Mapping[str, float] | None = None,
) -> list[ContrastResult]:
    """Return the result of each contrast, the primary ones first.

    The order of the table makes no difference. A contrast without a common base has NaN as its mean and is undecided.

    Args:
        table: The measures of each run; a run may lack some.
        primary: The declared contrasts.
        exploratory: Further ones, which get no adjusted p value.
        largest: The largest difference that a measure can have: 1 for shares, the horizon for times to escape. It
            bounds the interval where all bases have the same difference; without it such an interval is unbounded.

    Raises:
        ValueError: If a value is not finite, or a difference larger than ``largest``.
    """
    bounds = largest or {}
    results = [
        _result(contrast, table, bounds.get(contrast.measure, math.inf), len(primary))
        for contrast in (*primary, *exploratory)
    ]
    adjusted = holm([result.p for result in results[: len(primary)]])
    declared = [replace(result, adjusted=p) for result, p in zip(results, adjusted, strict=False)]
    return declared + results[len(primary) :]


def headlines(results: Sequence[ContrastResult], missing: int = 0) -> list[ContrastResult]:
    """Return the contrasts that are the headline answers, with p values adjusted over all of them.

    Args:
        results: Those that are known.
        missing: Headline answers that are declared and have no result yet. They count as hypotheses, so that a p value
            can only fall as they come in.
    """
    adjusted = holm([result.p for result in results] + [1.0] * missing)
    return [replace(result, headline=p) for result, p in zip(results, adjusted, strict=False)]


def by_base(table: Mapping[RunKey, Mapping[str, float]], arm: str, measure: str) -> dict[str, float]:
    """Return the mean of an arm's runs from each base, by base in sorted order.

    Raises:
        ValueError: If a value is not finite.
    """
    values: dict[str, list[float]] = {}
    for key in sorted(table):
        if key.arm == arm and measure in table[key]:
            value = table[key][measure]
            if not math.isfinite(value):
                raise ValueError(f"A measure of a finished run is a finite number: {measure} of {key} is {value}.")
            values.setdefault(key.base, []).append(value)
    return {base: mean(runs) for base, runs in values.items()}


def sign_flip_test(differences: Sequence[float]) -> tuple[float, str]:
    """Return the two-sided p value of paired differences under random signs, and how it was computed.

    Up to ``MOST_FLIPS`` differences all sign patterns are enumerated. Beyond, ``DRAWN_FLIPS`` are drawn with a fixed
    seed, and the observed pattern is counted as one more of them, which keeps the test valid (Phipson and Smyth 2010).
    """
    if len(differences) <= MOST_FLIPS:
        return sign_flip_p(differences), "exact sign flips"
    values = np.array(differences)
    generator = np.random.default_rng(0)
    sums = np.zeros(DRAWN_FLIPS)
    for value in values:
        sums += np.where(generator.random(DRAWN_FLIPS) < 0.5, value, -value)
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    hits = int(np.count_nonzero(np.abs(sums) >= observed))
    return (hits + 1) / (DRAWN_FLIPS + 1), f"{DRAWN_FLIPS} drawn sign flips"


def _result(
    contrast: DeclaredContrast, table: Mapping[RunKey, Mapping[str, float]], largest: float, hypotheses: int
) -> ContrastResult:
    """Return the result of one contrast before adjustment."""
    before, after = (by_base(table, arm, contrast.measure) for arm in (contrast.against, contrast.arm))
    bases = sorted(before.keys() & after.keys())
    differences = [after[base] - before[base] for base in bases]
    if any(abs(difference) > largest + ROUNDING for difference in differences):
        raise ValueError(f"A difference in {contrast.measure} is at most {largest}: {differences}.")
    hypotheses = max(1, hypotheses)
    interval, t_p = _interval(differences, largest, CONFIDENCE)
    joint, _ = _interval(differences, largest, 1 - (1 - CONFIDENCE) / hypotheses)
    p, test = sign_flip_test(differences)
    sd = statistics.stdev(differences) if len(differences) > 1 else 0.0
    sd = sd if sd > ROUNDING else math.inf  # no spread was seen, so nothing is known about what could be found
    return ContrastResult(
        arm=contrast.arm,
        against=contrast.against,
        measure=contrast.measure,
        smallest_effect=contrast.smallest_effect,
        margin=contrast.margin,
        bases=tuple(bases),
        unpaired=tuple(sorted(before.keys() ^ after.keys())),
        differences=tuple(differences),
        means=(mean([before[base] for base in bases]), mean([after[base] for base in bases])),
        interval=interval,
        joint=joint,
        t_p=t_p,
        p=p,
        test=test,
        adjusted=None,
        headline=None,
        detectable=(
            detectable_effect(sd, len(bases)),
            detectable_effect(sd, len(bases), hypotheses=hypotheses),
        ),
    )


def _interval(differences: Sequence[float], largest: float, confidence: float) -> tuple[Interval, float]:
    """Return an interval of the mean difference, and the p value of its test."""
    interval = mean_interval(differences, confidence)
    if len(differences) < 2 or interval.high - interval.low >= ROUNDING:
        return interval, t_test_p(mean_interval(differences), len(differences))
    # Equal differences have no spread: other bases may still differ, as far as the measure's range allows.
    if math.isinf(largest):
        return Interval(interval.mean, -math.inf, math.inf), 1.0
    share, p = constant_difference(max(-1.0, min(1.0, interval.mean / largest)), len(differences), confidence)
    return Interval(interval.mean, share.low * largest, share.high * largest), p
