r"""The field's standard reward: a right ``\boxed{}`` answer, and a little for the asked form."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from saei.rewards.base import Reward
from saei.strategy import StrategyConfig
from saei.types import Example, Grade

BOX = "\\boxed{"
MAX_NUMBER = 64  # characters; longer strings are compared as text only
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:/\d+)?", re.ASCII)


class AccuracyFormat(Reward):
    r"""A weighted sum of accuracy and form.

    Accuracy: the last ``\boxed{}`` holds the gold answer, up to white space and the way a number is written.
    Form: the whole response matches ``<think>.*</think>.*\boxed{.*}.*``.
    Source: EasyR1's maths reward, with the weights of NoisyRollout (arXiv 2504.13055).
    """

    class Config(StrategyConfig):
        """Fields of ``accuracy-format``.

        Attributes:
            accuracy: Weight of a right answer.
            format: Weight of the asked form.
        """

        type: Literal["accuracy-format"] = "accuracy-format"
        accuracy: float = 0.9
        format: float = 0.1

    config: Config

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response."""
        answer = last_boxed(text)
        correct = answer is not None and same_answer(answer, example.answer)
        formed = well_formed(text)
        reward = self.config.accuracy * correct + self.config.format * formed
        return Grade(reward, correct, {"accuracy": float(correct), "format": float(formed)}, answer)


def well_formed(text: str) -> bool:
    r"""Return whether the text matches ``<think>.*</think>.*\boxed{.*}.*`` as a whole, in linear time.

    The pattern holds exactly if its literals occur in this order, the first at the very start: taking the
    earliest place for each leaves the most room for the next.
    """
    if not text.startswith("<think>"):
        return False
    place = len("<think>")
    for literal in ("</think>", BOX, "}"):
        found = text.find(literal, place)
        if found < 0:
            return False
        place = found + len(literal)
    return True


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}``, braces balanced; None without a closed one after it."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth = 1
    begin = start + len(BOX)
    for brace in re.finditer(r"\\[{}]|[{}]", text[begin:]):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[begin : begin + brace.start()].strip()
    return None


def same_answer(given: str, gold: str) -> bool:
    """Return whether two answers are the same text up to white space, or the same rational number."""
    given, gold = " ".join(given.split()), " ".join(gold.split())
    if given == gold:
        return bool(gold)
    number = _number(gold)
    return number is not None and _number(given) == number


def _number(text: str) -> Fraction | None:
    compact = text.replace(" ", "").replace(",", "") if len(text) <= MAX_NUMBER else ""
    if not _NUMBER.fullmatch(compact):
        return None
    numerator, _, denominator = compact.partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or 1)
