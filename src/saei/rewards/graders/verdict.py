"""What a grader says."""

from __future__ import annotations

from dataclasses import dataclass


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
class Question:
    """What is left to algebra: whether two LaTeX expressions are equal."""

    gold: str
    answer: str
