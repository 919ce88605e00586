"""What is stored of every answer of an evaluation, and the answers grouped by example."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from saei.data.base import Meta, Reporting
from saei.types import Example, Grade, Response


@dataclass(frozen=True, slots=True)
class Record:
    r"""One graded answer: a line of ``answers.jsonl``, from which alone all scores follow.

    Attributes:
        number: The example's number in its split.
        response: Number of the response to this example, from 0.
        example: The example's id.
        gold: The gold answer.
        text: The response.
        answer: The final answer extracted from it, None if there is none.
        correct: Whether it is right.
        reason: Why.
        reward: The reward that training would give.
        parts: The reward's parts by name.
        tokens: Length of the response.
        truncated: Whether the length limit ended it.
        groups: The example's groups, by key of ``meta``.
        together: The example's group for each score that counts groups as a whole, None if it is in none.
        cluster: Cluster of examples that are not independent; None if the example is independent.
        approximate: Whether the grade only approximates the data set's own evaluation.

    Example:
        ``{"number": 3, "response": 0, "example": "bars-2-eval-3", "gold": "4", "text": "<think>…</think> \boxed{4}",
        "answer": "4", "correct": true, "reason": "the same text", "reward": 1.0, "parts": {"accuracy": 1.0,
        "format": 1.0}, "tokens": 21, "truncated": false, "groups": {"kind": ["add"]}, "together": {},
        "cluster": null, "approximate": false}``
    """

    number: int
    response: int
    example: str
    gold: str
    text: str
    answer: str | None
    correct: bool
    reason: str
    reward: float
    parts: Mapping[str, float]
    tokens: int
    truncated: bool
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    together: Mapping[str, str | None] = field(default_factory=dict)
    cluster: str | None = None
    approximate: bool = False


def record(number: int, n: int, example: Example, response: Response, grade: Grade, reporting: Reporting) -> Record:
    """Return what is stored of response ``n`` to example ``number``."""
    meta = example.meta
    return Record(
        number=number,
        response=n,
        example=example.id,
        gold=example.answer,
        text=response.text,
        answer=grade.answer,
        correct=grade.correct,
        reason=grade.reason,
        reward=grade.reward,
        parts=dict(grade.parts),
        tokens=len(response),
        truncated=response.truncated,
        groups={key: _labels(meta[key]) for key in reporting.by if meta.get(key) is not None},
        together={name: _joined(key_of(meta)) for name, key_of in reporting.together.items()},
        cluster=cluster_of(meta, reporting.cluster),
        approximate=reporting.approximate(meta),
    )


@dataclass(frozen=True, slots=True)
class ExampleAnswers:
    """The answers to one example.

    Attributes:
        number: The example's number in its split.
        correct: Which responses are right, in their order.
        groups: See ``Record``.
        together: See ``Record``.
        cluster: See ``Record``.
        approximate: See ``Record``.
    """

    number: int
    correct: tuple[bool, ...]
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    together: Mapping[str, str | None] = field(default_factory=dict)
    cluster: str | None = None
    approximate: bool = False

    @property
    def correct_count(self) -> int:
        """How many responses are right."""
        return sum(self.correct)

    @property
    def accuracy(self) -> float:
        """The share of right responses."""
        return self.correct_count / len(self.correct)


def by_example(records: Iterable[Record]) -> list[ExampleAnswers]:
    """Return the answers grouped by example, in the order of the examples' numbers."""
    ordered = sorted(records, key=lambda record: (record.number, record.response))
    examples = []
    for number, group in groupby(ordered, key=lambda record: record.number):
        answers = list(group)
        first = answers[0]
        correct = tuple(record.correct for record in answers)
        examples.append(ExampleAnswers(number, correct, first.groups, first.together, first.cluster, first.approximate))
    return examples


def _labels(value: Any) -> list[str]:
    return [str(label) for label in value] if isinstance(value, list | tuple) else [str(value)]


def cluster_of(meta: Meta, keys: tuple[str, ...]) -> str | None:
    """Return the cluster of examples that have these keys of ``meta`` in common, None without keys."""
    return _joined(tuple(meta[key] for key in keys)) if keys else None


def _joined(key: Hashable | None) -> str | None:
    """Return a group's key as one text."""
    if key is None:
        return None
    return " / ".join(map(str, key)) if isinstance(key, tuple) else str(key)
