"""Diversity of a set of answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from saei.types import Grade


def answer_entropy(grades: Sequence[Grade]) -> float:
    """Return the entropy of the empirical distribution of final answers, in nats; no answer counts as one."""
    counts = Counter(grade.answer for grade in grades)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def distinct_answers(grades: Sequence[Grade]) -> int:
    """Return how many different final answers there are; no answer counts as one."""
    return len({grade.answer for grade in grades})


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing."""
    return sum(values) / len(values) if values else math.nan
