"""What an answer is compared with: the gold answer, its type, and what the example says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from saei.errors import DataError, shown
from saei.types import Example

AnswerType: TypeAlias = Literal[
    "letter", "yes-no", "integer", "number", "relaxed", "expression", "list", "choice", "text"
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
    """

    type: AnswerType
    gold: str
    inferred: bool = False
    choices: tuple[str, ...] = ()
    precision: int | None = None
    unit: str | None = None
    tolerance: float | None = None


def bad_gold(example: Example, rule: str, remedy: str, reason: str = "") -> DataError:
    """Return the error of a gold answer that cannot be used."""
    found = reason or f"'{shown(example.answer)}'"
    return DataError(rule, reason=f"Example {shown(example.id)} has {found}.", remedy=remedy)
