"""Comparing methods by sets of evaluated policies, or two policies with each other.

What a comparison of methods is repeated over is the base checkpoint: runs from one base are averaged, and the test is
on the differences of bases that both sides were trained from. Two single policies are compared item by item, which says
something about these two alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saei.errors import ConfigError
from saei.evaluation.metrics import mean
from saei.evaluation.records import Item
from saei.evaluation.statistics.intervals import (
    MOST_FLIPS,
    Interval,
    detectable,
    equal_differences,
    holm,
    mcnemar,
    mean_interval,
    sign_flip_p,
    t_test_p,
)
from saei.evaluation.statistics.scores import spread_interval

ROUNDING = 1e-9
"""Widths of intervals below this are none."""


@dataclass(frozen=True, eq=False, slots=True)
class Evaluated:
    """One policy's answers.

    Attributes:
        name: Names the evaluation.
        base: The model that its training began with.
        items: The examples.
    """

    name: str
    base: str
    items: Sequence[Item]

    @property
    def accuracy(self) -> float:
        """The mean share of right answers."""
        return mean([one.share for one in self.items])


@dataclass(frozen=True, eq=False, slots=True)
class Side:
    """Evaluations of one method.

    Attributes:
        name: What they were asked for by.
        runs: At least one.
    """

    name: str
    runs: Sequence[Evaluated]

    def by_base(self) -> dict[str, float]:
        """Return the mean accuracy of the runs from each base."""
        bases = dict.fromkeys(run.base for run in self.runs)
        return {base: mean([run.accuracy for run in self.runs if run.base == base]) for base in bases}


@dataclass(frozen=True, slots=True)
class Contrast:
    """A side against the reference.

    Attributes:
        side: Its name.
        unit: What the difference is a mean over: ``base`` or ``item``.
        count: How many of these there are.
        accuracies: Those of reference and side, over what is compared.
        difference: Side minus reference, with its 95 % interval.
        p: Two-sided p value.
        test: How it was taken.
        adjusted: The p value with Holm's correction over all contrasts of a comparison.
        detectable: The true difference that such a test finds with a probability of 80 %.
        unpaired: Bases that only one side has; they are not compared.
    """

    side: str
    unit: Literal["base", "item"]
    count: int
    accuracies: tuple[float, float]
    difference: Interval
    p: float
    test: str
    adjusted: float
    detectable: float
    unpaired: tuple[str, ...] = ()


def contrasts(reference: Side, others: Sequence[Side]) -> list[Contrast]:
    """Return each side against the reference.

    Raises:
        ConfigError: If sets of runs have fewer than two bases in common.
    """
    found = [_contrast(reference, side) for side in others]
    adjusted = holm([one.p for one in found])
    return [replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def _contrast(reference: Side, side: Side) -> Contrast:
    if len(reference.runs) == len(side.runs) == 1:
        return _by_item(reference.runs[0], side)
    before, after = reference.by_base(), side.by_base()
    shared = [base for base in before if base in after]
    if len(shared) < 2:
        raise ConfigError(
            "Methods are compared over bases: the runs of both sides have to begin with the same two or more.",
            reason=f"'{reference.name}' and '{side.name}' have {len(shared)} in common"
            + (f", {shared[0]}: seeds from one base repeat its luck." if shared else "."),
            remedy="Evaluate runs from further bases, or compare two single evaluations, which says less.",
        )
    differences = [after[base] - before[base] for base in shared]
    found = mean_interval(differences)
    if len(differences) <= MOST_FLIPS:
        p, test = sign_flip_p(differences), "exact sign flips"
    else:
        p, test = t_test_p(found, len(shared)), "Student's t"
    return Contrast(
        side.name,
        "base",
        len(shared),
        (mean([before[base] for base in shared]), mean([after[base] for base in shared])),
        found,
        p,
        test,
        p,
        detectable(found, len(shared)),
        tuple(sorted(set(before) ^ set(after))),
    )


def _by_item(reference: Evaluated, side: Side) -> Contrast:
    """Return the paired difference of two policies over the examples that both have answered.

    The p value is that of the test whose interval is shown: p is below .05 where the interval leaves out 0.
    """
    other = side.runs[0]
    before = {one.number: one for one in reference.items}
    pairs = [(before[one.number], one) for one in other.items if one.number in before]
    if not pairs:
        raise ConfigError(
            "Two policies are compared on the examples that both answered.",
            reason=f"'{reference.name}' and '{side.name}' have none in common.",
            remedy="Evaluate both on the same examples.",
        )
    differences = [after.share - first.share for first, after in pairs]
    clusters = [one.cluster for one, _ in pairs]
    found, test, count = spread_interval(differences, clusters)
    single = all(len(first.correct) == len(after.correct) == 1 for first, after in pairs)
    if single and count == len(pairs):
        found, p = mcnemar(differences.count(1), differences.count(-1), count)
        test = "exact McNemar"
    elif found.high - found.low < ROUNDING:
        (found, p), test = equal_differences(found.mean, count), "exact binomial"
    else:
        p = t_test_p(found, count)
    means = mean([one.share for one, _ in pairs]), mean([one.share for _, one in pairs])
    return Contrast(side.name, "item", len(pairs), means, found, p, test, p, detectable(found, count))
