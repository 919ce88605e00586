r"""Arithmetic of written numbers in bounded time: rational values are exact, others have 60 digits."""

from __future__ import annotations

from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from fractions import Fraction
from math import isqrt
from typing import TypeAlias

Real: TypeAlias = "Fraction | Decimal"

MAX_BITS = 4096  # of a numerator or denominator: 1233 digits
EQUAL = Decimal("1e-40")  # relative; values carry 60 digits
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_CONTEXT = Context(prec=60, Emax=5000, Emin=-5000, traps=[InvalidOperation, DivisionByZero, Overflow])


class NotANumberError(Exception):
    """The text is not a number in one of the forms that are read, or one too large to work out."""


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
    return multiply(number, Fraction(factor))


def _bounded(number: Real) -> Real:
    if isinstance(number, Fraction) and max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise NotANumberError
    return number


def add(left: Real, right: Real) -> Real:
    """Return a sum; exact if both terms are rational."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left + right)
    return _CONTEXT.add(decimal(left), decimal(right))


def mixed_number(whole: Real, fraction: Real) -> Real:
    """Return a mixed number; nobody writes one whose fraction is not below 1, as 1 3/2."""
    if not 0 < fraction < 1:
        raise NotANumberError
    return add(whole, fraction)


def multiply(left: Real, right: Real) -> Real:
    """Return a product; exact if both factors are rational."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left * right)
    return _CONTEXT.multiply(decimal(left), decimal(right))


def divide(left: Real, right: Real) -> Real:
    """Return a quotient; exact if both numbers are rational.

    Raises:
        NotANumberError: If the divisor is 0, or the result too large.
    """
    if right == 0:
        raise NotANumberError
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left / right)
    return _CONTEXT.divide(decimal(left), decimal(right))


def negate(number: Real) -> Real:
    """Return a number with the other sign."""
    return -number if isinstance(number, Fraction) else _CONTEXT.minus(number)


def power(base: Real, exponent: Real) -> Real:
    """Return a power with a rational exponent; exact where it is rational."""
    if not isinstance(exponent, Fraction) or exponent.denominator > 12:
        raise NotANumberError
    if base == 0 and exponent <= 0:
        raise NotANumberError
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent.numerator) > MAX_BITS:
            raise NotANumberError
        whole = base**exponent.numerator
        root = _exact_root(whole, exponent.denominator)
        if root is not None:
            return root
        if whole < 0:
            raise NotANumberError
        base, exponent = (
            _CONTEXT.divide(Decimal(whole.numerator), Decimal(whole.denominator)),
            Fraction(1, exponent.denominator),
        )
    if base < 0 and exponent.denominator > 1:
        raise NotANumberError
    if exponent == Fraction(1, 2):
        return _CONTEXT.sqrt(base)
    if abs(exponent) > 1000:
        raise NotANumberError
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
