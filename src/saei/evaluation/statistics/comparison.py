"""Comparing methods by the policies they trained, or two policies with each other.

Two runs that start from the same base checkpoint share its luck, so runs are not independent, but bases are. A
comparison of methods therefore averages the runs from each base, and tests the differences over the bases that both
methods were trained from. Two single policies are compared example by example; that says something about these two
policies, not about the methods that made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saei.errors import ConfigError
from saei.evaluation.metrics import mean
from saei.evaluation.records import ExampleAnswers
from saei.evaluation.statistics.intervals import (
    MOST_FLIPS,
    Interval,
    constant_difference,
    detectable,
    holm,
    mcnemar,
    mean_interval,
    sign_flip_p,
    t_test_p,
)
from saei.evaluation.statistics.scores import spread_interval

ROUNDING = 1e-9
"""An interval narrower than this has no width: what is left comes from rounding."""


@dataclass(frozen=True, eq=False, slots=True)
class EvaluatedRun:
    """The answers of one policy.

    Attributes:
        name: Names the evaluation, such as its folder.
        base: The model that its training started from.
        examples: The answers to each example.
    """

    name: str
    base: str
    examples: Sequence[ExampleAnswers]

    @property
    def accuracy(self) -> float:
        """The share of right answers, averaged over examples."""
        return mean([example.accuracy for example in self.examples])


@dataclass(frozen=True, eq=False, slots=True)
class RunSet:
    """The evaluations that are compared as one: the runs of a method, or a single policy.

    Attributes:
        name: How the user named the set, such as ``runs/eval/grpo-*``.
        runs: At least one.
    """

    name: str
    runs: Sequence[EvaluatedRun]

    def accuracy_by_base(self) -> dict[str, float]:
        """Return the mean accuracy of the runs from each base."""
        bases = dict.fromkeys(run.base for run in self.runs)
        return {base: mean([run.accuracy for run in self.runs if run.base == base]) for base in bases}


@dataclass(frozen=True, slots=True)
class Contrast:
    """A set of runs against the reference.

    Attributes:
        name: The set's name.
        unit: What the difference is a mean over: ``base`` or ``example``.
        count: How many bases or examples that is.
        accuracies: Of the reference and of the set, over what is compared.
        difference: The set's accuracy minus the reference's, with its 95 % interval.
        p: Two-sided p value.
        test: The test that gave it.
        adjusted: The p value with Holm's correction over all contrasts of a comparison.
        detectable: The true difference that such a test finds with a probability of 80 %.
        unpaired: Bases that only one of the two has; they are not compared.
    """

    name: str
    unit: Literal["base", "example"]
    count: int
    accuracies: tuple[float, float]
    difference: Interval
    p: float
    test: str
    adjusted: float
    detectable: float
    unpaired: tuple[str, ...] = ()


def contrasts(reference: RunSet, others: Sequence[RunSet]) -> list[Contrast]:
    """Compare each set of runs with the reference.

    Raises:
        ConfigError: If two sets of several runs have fewer than two bases in common, or two policies no example.
    """
    unadjusted = [_contrast(reference, other) for other in others]
    adjusted = holm([contrast.p for contrast in unadjusted])
    return [replace(contrast, adjusted=p) for contrast, p in zip(unadjusted, adjusted, strict=True)]


def _contrast(reference: RunSet, other: RunSet) -> Contrast:
    if len(reference.runs) == len(other.runs) == 1:
        return _by_example(reference.runs[0], other)
    return _by_base(reference, other)


def _by_base(reference: RunSet, other: RunSet) -> Contrast:
    """Compare two methods over the bases that both were trained from."""
    before, after = reference.accuracy_by_base(), other.accuracy_by_base()
    shared = [base for base in before if base in after]
    if len(shared) < 2:
        raise ConfigError(
            "Methods are compared over bases: both need runs from the same two bases or more.",
            reason=f"'{reference.name}' and '{other.name}' have {len(shared)} in common"
            + (f", {shared[0]}: seeds from one base repeat its luck." if shared else "."),
            remedy="Evaluate runs from further bases, or compare two single evaluations, which says less.",
        )
    differences = [after[base] - before[base] for base in shared]
    interval = mean_interval(differences)
    if len(differences) <= MOST_FLIPS:
        p, test = sign_flip_p(differences), "exact sign flips"
    else:
        p, test = t_test_p(interval, len(shared)), "Student's t"
    return Contrast(
        other.name,
        "base",
        len(shared),
        (mean([before[base] for base in shared]), mean([after[base] for base in shared])),
        interval,
        p,
        test,
        p,
        detectable(interval, len(shared)),
        tuple(sorted(set(before) ^ set(after))),
    )


def _by_example(reference: EvaluatedRun, other: RunSet) -> Contrast:
    """Compare two policies over the examples that both answered.

    The p value belongs to the interval that is shown: p is below .05 exactly where the interval excludes 0.
    """
    by_number = {example.number: example for example in reference.examples}
    pairs = [(by_number[after.number], after) for after in other.runs[0].examples if after.number in by_number]
    if not pairs:
        raise ConfigError(
            "Two policies are compared on the examples that both answered.",
            reason=f"'{reference.name}' and '{other.name}' have none in common.",
            remedy="Evaluate both on the same examples.",
        )
    differences = [after.accuracy - before.accuracy for before, after in pairs]
    clusters = [before.cluster for before, _ in pairs]
    interval, test, independent = spread_interval(differences, clusters)
    one_response_each = all(len(before.correct) == len(after.correct) == 1 for before, after in pairs)
    if one_response_each and independent == len(pairs):
        interval, p = mcnemar(differences.count(1), differences.count(-1), independent)
        test = "exact McNemar"
    elif interval.high - interval.low < ROUNDING:
        (interval, p), test = constant_difference(interval.mean, independent), "exact binomial"
    else:
        p = t_test_p(interval, independent)
    accuracies = mean([before.accuracy for before, _ in pairs]), mean([after.accuracy for _, after in pairs])
    return Contrast(
        other.name, "example", len(pairs), accuracies, interval, p, test, p, detectable(interval, independent)
    )
