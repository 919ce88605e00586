"""From answers to scores with intervals: overall, by group, of groups that are right only together, and pass@k."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saei.evaluation.metrics import mean
from saei.evaluation.records import ExampleAnswers
from saei.evaluation.statistics.intervals import Interval, clustered_interval, mean_interval, proportion_interval
from saei.evaluation.statistics.pass_at import pass_at


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over examples, or over groups of them.

    Attributes:
        name: Such as ``accuracy``, ``fAcc`` or ``pass@4``.
        by: The key that examples are grouped by; empty for a score over all examples.
        group: The group's label; empty for a score over all examples.
        interval: The mean and its 95 % interval.
        method: How the interval was computed, such as ``Student's t``.
        count: Number of examples, or of groups of them, in the mean.
        clusters: How many of these are independent of each other.
        approximate: Whether any of the grades only approximates the data set's own evaluation.
    """

    name: str
    by: str
    group: str
    interval: Interval
    method: str
    count: int
    clusters: int
    approximate: bool


def all_scores(examples: Sequence[ExampleAnswers], name: str, ks: Sequence[int] = ()) -> list[Score]:
    """Return all scores of an evaluation: overall, per group, and pass@k.

    Args:
        examples: At least one example, each with as many responses.
        name: What the share of right answers is called.
        ks: For which k pass@k is reported.
    """
    scores = [_score(name, examples, [example.accuracy for example in examples])]
    scores += [_together(score, examples) for score in examples[0].together]
    for k in ks:
        values = [pass_at(k, len(example.correct), example.correct_count) for example in examples]
        scores.append(_score(f"pass@{k}", examples, values))
    for by in dict.fromkeys(key for example in examples for key in example.groups):
        labels = sorted({label for example in examples for label in example.groups.get(by, ())})
        for label in labels:
            members = [example for example in examples if label in example.groups.get(by, ())]
            scores.append(_score(name, members, [example.accuracy for example in members], by, label))
    return scores


def share_interval(values: Sequence[float], clusters: Sequence[str | None]) -> tuple[Interval, str, int]:
    """Return the 95 % interval of a mean accuracy, how it was computed, and how many values are independent.

    Independent zeros and ones get the exact binomial interval. So do values that are all 0 or all 1, which have no
    spread. All others get that of ``spread_interval``.
    """
    binary = all(value in (0.0, 1.0) for value in values)
    count = _independent(clusters)
    if values and binary and (count == len(values) or len(set(values)) == 1):
        return proportion_interval(round(count * mean(values)), count), "exact binomial", count
    return spread_interval(values, clusters)


def spread_interval(values: Sequence[float], clusters: Sequence[str | None]) -> tuple[Interval, str, int]:
    """Return the 95 % interval of a mean by the spread of values, how it was computed, and how many are independent.

    Args:
        values: Numbers.
        clusters: The cluster of each value; None if it is independent of all others.
    """
    count = _independent(clusters)
    if count == len(values):
        return mean_interval(values), "Student's t", count
    labels = [(number,) if label is None else label for number, label in enumerate(clusters)]
    return clustered_interval(values, labels), "cluster-robust t", count


def _independent(clusters: Sequence[str | None]) -> int:
    return len(set(clusters) - {None}) + sum(label is None for label in clusters)


def _score(
    name: str, examples: Sequence[ExampleAnswers], values: Sequence[float], by: str = "", group: str = ""
) -> Score:
    interval, method, clusters = share_interval(values, [example.cluster for example in examples])
    approximate = any(example.approximate for example in examples)
    return Score(name, by, group, interval, method, len(values), clusters, approximate)


def _together(name: str, examples: Sequence[ExampleAnswers]) -> Score:
    """Return the mean share of responses in which all answers of a group are right, response by response."""
    groups: dict[str, list[ExampleAnswers]] = {}
    for example in examples:
        key = example.together[name]
        if key is not None:
            groups.setdefault(key, []).append(example)
    values = [mean([float(all(answers)) for answers in _by_response(members)]) for members in groups.values()]
    interval, method, clusters = share_interval(values, [members[0].cluster for members in groups.values()])
    approximate = any(example.approximate for members in groups.values() for example in members)
    return Score(name, "", "", interval, method, len(values), clusters, approximate)


def _by_response(examples: Sequence[ExampleAnswers]) -> Iterable[tuple[bool, ...]]:
    return zip(*(example.correct for example in examples), strict=True)
