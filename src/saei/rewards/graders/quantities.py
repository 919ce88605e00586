"""Graders of numbers: an integer, a number with precision and unit, a number that may be 5 % off."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from saei.errors import shown
from saei.rewards.graders.base import AnswerKey, Verdict
from saei.rewards.graders.chains import conclusion, rounded
from saei.rewards.graders.exact import Real, decimal, same, times
from saei.rewards.graders.normalize import normalize, plain_words
from saei.rewards.graders.units import same_unit, split_unit, unit_of
from saei.rewards.graders.value import Value, parse_number

RELAXED = 0.05  # ChartQA's relaxed accuracy (arXiv 2203.10244)
MAX_LENGTH = 1000  # characters
TELLING = 3  # significant digits from which a decimal number stands for the exact one that it rounds


@dataclass(frozen=True, slots=True)
class Quantity:
    r"""What an answer gives as a number.

    Attributes:
        value: Its value.
        unit: The unit that it is in, None if none is named.
        exact: What it is rounded from where the answer says both, as ``1/3 \approx 0.33``.
    """

    value: Value
    unit: str | None
    exact: Value | None = None


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Quantity | None:
    """Return the number and the unit that an answer gives, also at the end of its work; None if it gives no number."""
    if len(text) > MAX_LENGTH:
        return None
    normalized = normalize(text)
    last = _measured(conclusion(normalized))
    before = rounded(normalized) if last is not None else None
    exact = _measured(before) if before else None
    if last is None or exact is None or not _is_rounding(last.value, exact.value):
        return last
    return Quantity(last.value, last.unit or exact.unit, exact.value)


def _measured(normalized: str) -> Quantity | None:
    value = parse_number(normalized)
    if value is not None and "circ" not in normalized:
        return Quantity(value, None)
    rest, unit = split_unit(normalized)
    value = parse_number(rest) if unit is not None else value
    return None if value is None else Quantity(value, unit)


def _is_rounding(given: Value, exact: Value) -> bool:
    """Return whether a decimal number is another one to its last digit, rounded either way."""
    unit = Decimal(1).scaleb(-(given.decimals or 0))
    return abs(decimal(given.number) - decimal(exact.number)) < unit


def integer(answer: str, key: AnswerKey) -> Verdict:
    """The same whole number, in any exact form: ``5.0`` and ``10/2`` are 5, and 4.9999 is not."""
    return _compare(answer, key)


def number(answer: str, key: AnswerKey) -> Verdict:
    """The same number to the precision of the gold answer, in the same unit if both name one."""
    return _compare(answer, key)


def relaxed(answer: str, key: AnswerKey) -> Verdict:
    """A number at most 5 % off the gold answer; other gold answers as text, in any case."""
    gold = parse_quantity(key.gold)
    if gold is None:
        correct = plain_words(normalize(answer)) == plain_words(normalize(key.gold))
        return Verdict(correct, "the same text" if correct else f"another text: '{shown(answer)}'")
    given = parse_quantity(answer)
    if given is None:
        return Verdict(False, f"no number: '{shown(answer)}'")
    tolerance = RELAXED if key.tolerance is None else key.tolerance
    if not given.value.worked_out and gold.value.worked_out:
        return Verdict(False, "a calculation that is not worked out")
    if near(given.value, gold.value, tolerance):
        return Verdict(True, f"within {tolerance:.0%}")
    return Verdict(False, f"{_text(given.value)} is off by more than {tolerance:.0%}")


def _compare(answer: str, key: AnswerKey) -> Verdict:
    gold, given = parse_quantity(key.gold), parse_quantity(answer)
    assert gold is not None, "checked when the example was read"
    if given is None:
        return Verdict(False, f"no number: '{shown(answer)}'")
    return same_quantity(given, gold, key)


def same_quantity(given: Quantity, gold: Quantity, key: AnswerKey) -> Verdict:
    """Compare two numbers with their units; a unit that only one of them names is taken for granted."""
    unit = unit_of(key.unit) or gold.unit
    if unit is not None and given.unit is not None and not same_unit(given.unit, unit):
        return Verdict(False, f"in {given.unit}, not in {shown(unit, 24)}")
    verdict = same_number(given.value, gold.value, key)
    if not verdict.correct and given.exact is not None:
        exact = same_number(given.exact, gold.value, key)
        return exact if exact.correct else verdict
    return verdict


def same_number(given: Value, gold: Value, key: AnswerKey) -> Verdict:
    """Compare two numbers by the rules of the gold answer's precision."""
    if not given.worked_out and gold.worked_out:
        return Verdict(False, "a calculation that is not worked out")
    pairs = _readings(given, gold)
    if any(same(a, b) for a, b in pairs):
        return Verdict(True, "the same number")
    if key.tolerance is not None and near(given, gold, key.tolerance):
        return Verdict(True, f"within a factor of {key.tolerance:g}")
    if key.type == "integer":
        return Verdict(False, f"another number: {_text(given)}")
    decimals = key.precision
    if decimals is None and gold.decimals and gold.digits >= TELLING:
        decimals = gold.decimals
    if decimals is not None and any(_rounds(a, b, decimals) for a, b in pairs):
        return Verdict(True, f"the same to {decimals} decimals")
    approximate = given.decimals is not None and given.digits >= TELLING and not gold.rational
    if approximate and _rounds(given.number, gold.number, given.decimals or 0):
        return Verdict(True, f"the gold answer to {given.decimals} decimals")
    return Verdict(False, f"another number: {_text(given)}")


def near(given: Value, gold: Value, tolerance: float) -> bool:
    """Return whether a number is within a relative tolerance of another; of 0 only 0 is."""
    share = Decimal(repr(tolerance))
    return any(abs(decimal(a) - decimal(b)) <= share * abs(decimal(b)) for a, b in _readings(given, gold))


def _readings(given: Value, gold: Value) -> list[tuple[Real, Real]]:
    """Return the pairs of numbers to compare: 50% is one half, and it is the 50 of an answer in percent."""
    pairs = [(given.number, gold.number)]
    if given.percent and not gold.percent:
        pairs.append((times(given.number, 100), gold.number))
    if gold.percent and not given.percent:
        pairs.append((given.number, times(gold.number, 100)))
    return pairs


def _rounds(given: Real, gold: Real, decimals: int) -> bool:
    """Return whether two numbers are at most half a unit of the last decimal apart."""
    return abs(decimal(given) - decimal(gold)) <= Decimal(5).scaleb(-decimals - 1)


def _text(value: Value) -> str:
    number = value.number
    return shown(str(number), 24) if not isinstance(number, Decimal) else f"{number:.6g}"
