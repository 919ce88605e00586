r"""Units of measurement at the end of a number."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMES = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "dm": "decimeter decimeters decimetre decimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "lb": "lbs pound pounds",
    "ml": "mL milliliter milliliters millilitre millilitres",
    "l": "L liter liters litre litres",
    "s": "sec second seconds",
    "min": "minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "year": "years",
    "m/s": "mps",
    "km/h": "kmh kph",
    "mph": "",
    "N": "newton newtons",
    "J": "joule joules",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amps",
    "degree": "degrees deg",
    "rad": "radian radians",
    "unit": "units",
    "$": "dollar dollars USD",
}
UNITS: Mapping[str, str] = {word: unit for unit, words in _NAMES.items() for word in (unit, *words.split())}
"""Each spelling of a unit and the unit."""


def _pattern(words: list[str], prefix: str = "") -> str:
    names = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return (
        rf"(?:(?P<{prefix}sq>sq(?:uare|\.)?|cubic)\s+)?(?P<{prefix}unit>{names})"
        rf"(?:\s*\^?\s*\{{?(?P<{prefix}power>[23])\}}?)?"
    )


_TEXT = r"\\(?:text|textrm|mathrm|mbox|rm)\s*"
_IN_TEXT = rf"{_TEXT}\{{\s*{_pattern([*UNITS])}\s*\}}(?:\s*\^\s*\{{?(?P<outer>[23])\}}?)?"
_LONG = _pattern([word for word in UNITS if len(word) > 1 and word not in ("in", "second")], "long_")
_SHORT = _pattern([word for word in UNITS if len(word) == 1 and word != "$"], "short_")
# A bare letter right after a number is a symbol (5m), and some units are words besides.
_END = re.compile(rf"(?P<number>.*?[\d}})%])(?:\s*{_IN_TEXT}|\s*{_LONG}|\s+{_SHORT})", re.DOTALL)


def split_unit(text: str) -> tuple[str, str | None]:
    r"""Return a tidied answer without the unit at its end, and the unit (``cm^2``), None if it names none.

    ``12\text{ cm}^2``, ``12 cm^{2}``, ``12 square centimeters`` and ``$12`` name one; ``12a`` and ``5m`` do not.
    """
    if text.startswith("$"):
        return text[1:].strip(), "$"
    if len(text) > 200:
        return text, None
    degrees = re.fullmatch(r"(.*\d\}?)\s*\^\s*\{?\s*\\circ\s*\}?", text)
    if degrees:
        return degrees[1], "degree"
    found = _END.fullmatch(text)
    if found is None:
        return text, None
    name, word, power = (
        found[part] or found[f"long_{part}"] or found[f"short_{part}"] for part in ("unit", "sq", "power")
    )
    unit = UNITS[name]
    power = power or found["outer"] or (("3" if word == "cubic" else "2") if word else None)
    return found["number"], f"{unit}^{power}" if power else unit


def unit_of(text: str | None) -> str | None:
    """Return the unit that a name of one stands for; an unknown name stands for itself."""
    if text is None:
        return None
    return split_unit(f"1 {text}")[1] or text
