r"""The value of a number as people and LaTeX write it, exactly and in bounded time; no algebra.

Read are digits, thousands separators, decimals, fractions, mixed numbers, powers, roots, :math:`\pi`, percent and
degree signs, and sums and products of these. Rational values are exact; others have 60 digits, which for answers of
this size decides equality. Anything else (variables, functions, sets) has no value here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import TypeAlias

from saei.rewards.graders.tidy import tidy

Real: TypeAlias = "Fraction | Decimal"

MAX_LENGTH = 200  # characters
MAX_DEPTH = 24
MAX_BITS = 4096  # of a numerator or denominator: 1233 digits
EQUAL = Decimal("1e-40")  # relative; values carry 60 digits
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_CONTEXT = Context(prec=60, Emax=5000, Emin=-5000, traps=[InvalidOperation, DivisionByZero, Overflow])
_NUMBER = (
    r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?"  # 1,234.5
    r"|\d{1,3}(?: \d{3})+(?![\d/])(?:\.\d+)?"  # 1 234.5
    r"|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"  # 12.5e-3
)
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})|(?P<command>\\[A-Za-z]+)|(?P<sign>[-+*/^(){{}}\[\]%])|(?P<space> +)", re.ASCII
)


class _NoNumberError(Exception):
    """The text is not a number of the forms that are read."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a written number says.

    Attributes:
        number: Its value; a percent sign divides by 100.
        percent: Whether a percent sign ends it.
        decimals: Digits after the point if it is written as one decimal number, else None.
        digits: Significant digits of such a decimal number, else 0.
        worked_out: False if a sum, difference or product of rational numbers is left to do.
    """

    number: Real
    percent: bool = False
    decimals: int | None = None
    digits: int = 0
    worked_out: bool = True

    @property
    def rational(self) -> bool:
        """Whether the value is known as an exact fraction."""
        return isinstance(self.number, Fraction)


@lru_cache(maxsize=8192)
def read(text: str) -> Value | None:
    """Return the value of a written number, None if it is not one."""
    if len(text) > MAX_LENGTH or len(neat := tidy(text)) > 2 * MAX_LENGTH:
        return None
    try:
        return _Reader(neat).value()
    except (_NoNumberError, ArithmeticError, ValueError):
        return None


def same(left: Real, right: Real) -> bool:
    """Return whether two values are equal: exactly if both are rational, else to 40 digits."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    a, b = decimal(left), decimal(right)
    return abs(_CONTEXT.subtract(a, b)) <= EQUAL * max(abs(a), abs(b))


def decimal(number: Real) -> Decimal:
    """Return a value with 60 digits."""
    if isinstance(number, Decimal):
        return number
    return _CONTEXT.divide(Decimal(number.numerator), Decimal(number.denominator))


def times(number: Real, factor: int) -> Real:
    """Return a multiple of a value."""
    return _multiply(number, Fraction(factor))


@dataclass(frozen=True, slots=True)
class _Part:
    """A value inside an expression; ``literal`` is the text of a bare number."""

    number: Real
    literal: str = ""
    percent: bool = False
    ten: bool = False  # a power of ten, the second half of scientific notation


class _Reader:
    """A recursive descent over one expression."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:
                raise _NoNumberError
            self._tokens.append((str(found.lastgroup), found[0]))
            place = found.end()
        self._at = 0
        self._depth = 0
        self._worked_out = True

    def value(self) -> Value:
        part = self._sum()
        self._spaces()
        if self._at != len(self._tokens):
            raise _NoNumberError
        literal = part.literal.replace(",", "").replace(" ", "")
        mantissa = re.split("[eE]", literal)[0].lstrip("-")
        decimals = len(mantissa.partition(".")[2]) if "." in mantissa and "e" not in literal.lower() else None
        digits = len(mantissa.replace(".", "").lstrip("0")) if decimals is not None else 0
        return Value(part.number, part.percent, decimals, digits, self._worked_out)

    def _sum(self) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _NoNumberError
        total = self._product()
        while (sign := self._take("+", "-")) is not None:
            term = self._product()
            self._unfinished(total, term)
            total = _Part(_add(total.number, term.number if sign == "+" else _negative(term.number)))
        self._depth -= 1
        return total

    def _product(self) -> _Part:
        total = self._signed()
        while True:
            if (sign := self._take("*", "/")) is not None:
                factor = self._signed()
                if sign == "/":
                    total = _Part(_divide(total.number, factor.number))
                    continue
                if not factor.ten:
                    self._unfinished(total, factor)
                total = _Part(_multiply(total.number, factor.number))
            elif self._starts_factor():
                whole = total.literal.isdigit()
                mixed = whole and (self._peek()[1] == "\\frac" or self._written_fraction())
                factor = self._fraction() if mixed and self._peek()[0] == "number" else self._power()
                if factor.literal or (total.literal and not mixed and isinstance(factor.number, Fraction)):
                    raise _NoNumberError  # two numbers beside each other, or 2(3)
                total = _Part((_mixed if mixed else _multiply)(total.number, factor.number))
            else:
                return total

    def _signed(self) -> _Part:
        sign = self._take("+", "-")
        if sign is None:
            return self._power()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _NoNumberError
        part = self._product_of_one()
        self._depth -= 1
        if sign == "+":
            return part
        return _Part(_negative(part.number), f"-{part.literal}" if part.literal else "", part.percent)

    def _product_of_one(self) -> _Part:
        """A signed factor together with what stands beside it: -2 1/2 is -(2 1/2)."""
        part = self._signed()
        if (
            part.literal.isdigit()
            and self._starts_factor()
            and (self._peek()[1] == "\\frac" or self._written_fraction())
        ):
            factor = self._fraction() if self._peek()[0] == "number" else self._power()
            return _Part(_mixed(part.number, factor.number))
        return part

    def _power(self) -> _Part:
        part = self._atom()
        while (sign := self._take("^", "%")) is not None:
            if sign == "%":
                part = _Part(_divide(part.number, Fraction(100)), part.literal, percent=True)
            elif self._peek() == ("command", "\\circ") or self._degrees_in_braces():
                self._at += 1 if self._peek()[1] == "\\circ" else 3
                part = _Part(part.number, part.literal)
            else:
                ten = part.literal == "10"
                part = _Part(_raise(part.number, self._argument().number), ten=ten)
                if self._peek()[1] == "^":  # a^b^c is no LaTeX, and what it means is a guess
                    raise _NoNumberError
        return part

    def _atom(self) -> _Part:
        self._spaces()
        kind, token = self._peek()
        self._at += 1
        if kind == "number":
            return _Part(Fraction(token.replace(",", "").replace(" ", "")), token)
        if token in ("(", "{"):
            inner = self._sum()
            if self._take({"(": ")", "{": "}"}[token]) is None:
                raise _NoNumberError
            return _Part(inner.number, percent=inner.percent)
        if token == "\\frac":
            return _Part(_divide(self._argument().number, self._argument().number))
        if token == "\\pi":
            return _Part(PI)
        if token == "\\sqrt":
            degree = Fraction(2)
            if self._take("[") is not None:
                inner = self._sum()
                if self._take("]") is None or not isinstance(inner.number, Fraction):
                    raise _NoNumberError
                degree = inner.number
            return _Part(_raise(self._argument().number, _divide(Fraction(1), degree)))
        raise _NoNumberError

    def _argument(self) -> _Part:
        r"""What follows ``\frac``, ``\sqrt`` or ``^``: a group, a command or, as in LaTeX, a single digit."""
        self._spaces()
        kind, token = self._peek()
        if kind == "sign" and token == "-":
            self._at += 1
            return _Part(_negative(self._argument().number))
        if kind != "number":
            return self._atom()
        previous = self._tokens[self._at - 1][1] if self._at else ""
        if previous in ("^", " ", "-") or not token.isdigit() or len(token) == 1:
            self._at += 1  # 2^10 and \sqrt 12 are meant as they look
            return _Part(Fraction(token.replace(",", "").replace(" ", "")))
        self._tokens[self._at] = ("number", token[1:])
        return _Part(Fraction(token[0]))

    def _fraction(self) -> _Part:
        """The ``1/2`` of ``2 1/2``."""
        top = self._atom()
        self._take("/")
        return _Part(_divide(top.number, self._atom().number))

    def _written_fraction(self) -> bool:
        tokens = self._tokens[self._at : self._at + 3]
        return (
            len(tokens) == 3
            and tokens[0][1].isdigit()
            and tokens[1][1] == "/"
            and tokens[2][1].isdigit()
            and self._tokens[self._at - 1][0] == "space"
        )

    def _degrees_in_braces(self) -> bool:
        return [token for _, token in self._tokens[self._at : self._at + 3]] == ["{", "\\circ", "}"]

    def _starts_factor(self) -> bool:
        self._spaces()
        kind, token = self._peek()
        return kind in ("number", "command") or token in ("(", "{")

    def _unfinished(self, left: _Part, right: _Part) -> None:
        if isinstance(left.number, Fraction) and isinstance(right.number, Fraction):
            self._worked_out = False

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, *signs: str) -> str | None:
        self._spaces()
        token = self._peek()[1]
        if token not in signs:
            return None
        self._at += 1
        return token

    def _spaces(self) -> None:
        while self._peek()[0] == "space":
            self._at += 1


def _bounded(number: Real) -> Real:
    if isinstance(number, Fraction) and max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise _NoNumberError
    return number


def _add(left: Real, right: Real) -> Real:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left + right)
    return _CONTEXT.add(decimal(left), decimal(right))


def _mixed(whole: Real, fraction: Real) -> Real:
    """Return a mixed number; nobody writes one whose fraction is not below 1, as 1 3/2."""
    if not 0 < fraction < 1:
        raise _NoNumberError
    return _add(whole, fraction)


def _multiply(left: Real, right: Real) -> Real:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left * right)
    return _CONTEXT.multiply(decimal(left), decimal(right))


def _divide(left: Real, right: Real) -> Real:
    if right == 0:
        raise _NoNumberError
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left / right)
    return _CONTEXT.divide(decimal(left), decimal(right))


def _negative(number: Real) -> Real:
    return -number if isinstance(number, Fraction) else _CONTEXT.minus(number)


def _raise(base: Real, exponent: Real) -> Real:
    """Return a power with a rational exponent; exact where it is rational."""
    if not isinstance(exponent, Fraction) or exponent.denominator > 12:
        raise _NoNumberError
    if base == 0 and exponent <= 0:
        raise _NoNumberError
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent.numerator) > MAX_BITS:
            raise _NoNumberError
        whole = base**exponent.numerator
        root = _exact_root(whole, exponent.denominator)
        if root is not None:
            return root
        if whole < 0:
            raise _NoNumberError
        base, exponent = (
            _CONTEXT.divide(Decimal(whole.numerator), Decimal(whole.denominator)),
            Fraction(1, exponent.denominator),
        )
    if base < 0 and exponent.denominator > 1:
        raise _NoNumberError
    if exponent == Fraction(1, 2):
        return _CONTEXT.sqrt(base)
    if abs(exponent) > 1000:
        raise _NoNumberError
    return _CONTEXT.power(base, _CONTEXT.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)))


def _exact_root(number: Fraction, degree: int) -> Fraction | None:
    if degree == 1:
        return number
    if number < 0:
        root = _exact_root(-number, degree) if degree % 2 else None
        return None if root is None else -root
    top, bottom = _integer_root(number.numerator, degree), _integer_root(number.denominator, degree)
    return Fraction(top, bottom) if top**degree == number.numerator and bottom**degree == number.denominator else None


def _integer_root(number: int, degree: int) -> int:
    """Return the largest integer whose power does not exceed ``number``."""
    if degree == 2:
        return isqrt(number)
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low
