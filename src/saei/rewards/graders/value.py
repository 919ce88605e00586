r"""The value of a number as people and LaTeX write it, exactly and in bounded time; no algebra.

Read are digits, thousands separators, decimals, fractions, mixed numbers, powers, roots, :math:`\pi`, percent and
degree signs, and sums and products of these. Rational values are exact; others have 60 digits, which for answers of
this size decides equality. Anything else (variables, functions, sets) has no value here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from saei.rewards.graders.exact import PI, NotANumberError, Real, add, divide, mixed_number, multiply, negate, power
from saei.rewards.graders.normalize import normalize

MAX_LENGTH = 200  # characters
MAX_DEPTH = 24
_NUMBER = (
    r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?"  # 1,234.5
    r"|\d{1,3}(?: \d{3})+(?![\d/])(?:\.\d+)?"  # 1 234.5
    r"|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"  # 12.5e-3
)
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})|(?P<command>\\[A-Za-z]+)|(?P<sign>[-+*/^(){{}}\[\]%])|(?P<space> +)", re.ASCII
)


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
def parse_number(text: str) -> Value | None:
    """Return the value of a written number, None if it is not one."""
    if len(text) > MAX_LENGTH or len(normalized := normalize(text)) > 2 * MAX_LENGTH:
        return None
    try:
        return _Parser(normalized).value()
    except (NotANumberError, ArithmeticError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class _Part:
    """A value inside an expression; ``literal`` is the text of a bare number."""

    number: Real
    literal: str = ""
    percent: bool = False
    ten: bool = False  # a power of ten, the second half of scientific notation


class _Parser:
    """A recursive descent over one expression."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            token = _TOKEN.match(text, place)
            if token is None:
                raise NotANumberError
            self._tokens.append((str(token.lastgroup), token[0]))
            place = token.end()
        self._at = 0
        self._depth = 0
        self._worked_out = True

    def value(self) -> Value:
        part = self._sum()
        self._spaces()
        if self._at != len(self._tokens):
            raise NotANumberError
        literal = part.literal.replace(",", "").replace(" ", "")
        mantissa = re.split("[eE]", literal)[0].lstrip("-")
        decimals = len(mantissa.partition(".")[2]) if "." in mantissa and "e" not in literal.lower() else None
        digits = len(mantissa.replace(".", "").lstrip("0")) if decimals is not None else 0
        return Value(part.number, part.percent, decimals, digits, self._worked_out)

    def _sum(self) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotANumberError
        total = self._product()
        while (sign := self._take("+", "-")) is not None:
            term = self._product()
            self._unfinished(total, term)
            total = _Part(add(total.number, term.number if sign == "+" else negate(term.number)))
        self._depth -= 1
        return total

    def _product(self) -> _Part:
        total = self._signed()
        while True:
            if (sign := self._take("*", "/")) is not None:
                factor = self._signed()
                if sign == "/":
                    total = _Part(divide(total.number, factor.number))
                    continue
                if not factor.ten:
                    self._unfinished(total, factor)
                total = _Part(multiply(total.number, factor.number))
            elif self._starts_factor():
                whole = total.literal.isdigit()
                mixed = whole and (self._peek()[1] == "\\frac" or self._written_fraction())
                factor = self._fraction() if mixed and self._peek()[0] == "number" else self._power()
                if factor.literal or (total.literal and not mixed and isinstance(factor.number, Fraction)):
                    raise NotANumberError  # two numbers beside each other, or 2(3)
                total = _Part((mixed_number if mixed else multiply)(total.number, factor.number))
            else:
                return total

    def _signed(self) -> _Part:
        sign = self._take("+", "-")
        if sign is None:
            return self._power()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotANumberError
        part = self._signed_or_mixed()
        self._depth -= 1
        if sign == "+":
            return part
        return _Part(negate(part.number), f"-{part.literal}" if part.literal else "", part.percent)

    def _signed_or_mixed(self) -> _Part:
        """Read a signed factor, or the mixed number that it begins: -2 1/2 is -(2 1/2)."""
        part = self._signed()
        if (
            part.literal.isdigit()
            and self._starts_factor()
            and (self._peek()[1] == "\\frac" or self._written_fraction())
        ):
            factor = self._fraction() if self._peek()[0] == "number" else self._power()
            return _Part(mixed_number(part.number, factor.number))
        return part

    def _power(self) -> _Part:
        part = self._atom()
        while (sign := self._take("^", "%")) is not None:
            if sign == "%":
                part = _Part(divide(part.number, Fraction(100)), part.literal, percent=True)
            elif self._peek() == ("command", "\\circ") or self._degrees_in_braces():
                self._at += 1 if self._peek()[1] == "\\circ" else 3
                part = _Part(part.number, part.literal)
            else:
                ten = part.literal == "10"
                part = _Part(power(part.number, self._argument().number), ten=ten)
                if self._peek()[1] == "^":  # a^b^c is no LaTeX, and what it means is a guess
                    raise NotANumberError
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
                raise NotANumberError
            return _Part(inner.number, percent=inner.percent)
        if token == "\\frac":
            return _Part(divide(self._argument().number, self._argument().number))
        if token == "\\pi":
            return _Part(PI)
        if token == "\\sqrt":
            degree = Fraction(2)
            if self._take("[") is not None:
                inner = self._sum()
                if self._take("]") is None or not isinstance(inner.number, Fraction):
                    raise NotANumberError
                degree = inner.number
            return _Part(power(self._argument().number, divide(Fraction(1), degree)))
        raise NotANumberError

    def _argument(self) -> _Part:
        r"""What follows ``\frac``, ``\sqrt`` or ``^``: a group, a command or, as in LaTeX, a single digit."""
        self._spaces()
        kind, token = self._peek()
        if kind == "sign" and token == "-":
            self._at += 1
            return _Part(negate(self._argument().number))
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
        return _Part(divide(top.number, self._atom().number))

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
