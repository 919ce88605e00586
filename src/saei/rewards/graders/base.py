r"""The types of all graders: what an answer is compared with, and what a grader returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from saei.errors import DataError, shown
from saei.types import Example

AnswerType: TypeAlias = Literal[
    "letter", "yes-no", "integer", "number", "relaxed", "expression", "list", "choice", "plan", "text"
]
ANSWER_TYPES: tuple[str, ...] = get_args(AnswerType)
MAX_LENGTH = 2000
"""Characters of an answer or option that graders read; a longer one is right only as the same text."""


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """The gold answer and how an answer is compared with it.

    Attributes:
        type: One of ``ANSWER_TYPES``.
        gold: The gold answer as the data has it.
        inferred: Whether the type was inferred from it.
        choices: The texts of the options, in the order of their letters; empty where there are none.
        precision: Decimals that the answer is rounded to.
        unit: The unit that the gold answer is in.
        tolerance: Relative deviation that is still right.
        map: Rows of the grid world that a plan leads through; see ``saei.grids``.
    """

    type: AnswerType
    gold: str
    inferred: bool = False
    choices: tuple[str, ...] = ()
    precision: int | None = None
    unit: str | None = None
    tolerance: float | None = None
    map: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right, and why.

    Attributes:
        correct: Whether it is.
        reason: A few words, on one line, printable.
    """

    correct: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AlgebraQuestion:
    r"""A comparison that is left to algebra: whether two LaTeX expressions are equal.

    Attributes:
        gold: The gold answer, such as ``\frac{x}{2}``.
        answer: The given one, such as ``0.5x``.
    """

    gold: str
    answer: str


def bad_gold_error(example: Example, rule: str, remedy: str, reason: str = "") -> DataError:
    """Return the error of a gold answer that cannot be used."""
    detail = reason or f"'{shown(example.answer)}'"
    return DataError(rule, reason=f"Example {shown(example.id)} has {detail}.", remedy=remedy)
