r"""Units of measurement and currencies beside a number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

MAX_LENGTH = 200  # characters of a number with its unit

_SYMBOLS = "m g s N J W V A K L Hz Pa C F H T eV Wh cal mol Ω"
_PREFIXES = {"n": "nano", "μ": "micro", "m": "milli", "c": "centi", "d": "deci", "k": "kilo", "M": "mega", "G": "giga"}
_NAMES = {
    "m": "meter metre",
    "g": "gram",
    "s": "second",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "V": "volt",
    "A": "ampere amp",
    "K": "kelvin",
    "L": "liter litre",
    "Hz": "hertz",
    "Pa": "pascal",
    "C": "coulomb",
    "T": "tesla",
    "cal": "calorie",
    "mol": "mole",
    "Ω": "ohm",
}
_OTHERS = {
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "oz": "ounce ounces",
    "lb": "lbs pound pounds",
    "t": "ton tons tonne tonnes",
    "ha": "hectare hectares",
    "l": "",
    "s": "sec secs",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "mph": "",
    "kmh": "kph",
    "mps": "",
    "rpm": "",
    "atm": "",
    "dB": "",
    "degree": "degrees deg",
    "°C": "celsius Celsius",
    "°F": "fahrenheit Fahrenheit",
    "rad": "radian radians",
    "unit": "units",
    "$": "dollar dollars USD usd",
    "€": "euro euros EUR",
    "£": "GBP",
    "¥": "yen yuan JPY CNY RMB",
    "₹": "rupee rupees INR",
    "¢": "cent cents",
}
_SAME = {"l": "L", "mps": "m/s", "kmh": "km/h", "mph": "mi/h"}


def _spellings() -> Iterator[tuple[str, str]]:
    for symbol in _SYMBOLS.split():
        names = [word for name in _NAMES.get(symbol, "").split() for word in (name, f"{name}s")]
        for short, long in {"": "", **_PREFIXES}.items():
            yield f"{short}{symbol}", f"{short}{symbol}"
            yield from ((f"{long}{name}", f"{short}{symbol}") for name in names)
    yield from (("ml", "mL"), ("cc", "cm^3"), ("µm", "μm"), ("ohms", "Ω"))
    for unit, words in _OTHERS.items():
        for word in (unit, *words.split()):
            yield word, _SAME.get(unit, unit)


UNITS: Mapping[str, str] = dict(_spellings())
"""Each spelling of a unit and the unit."""

_SHORT = "mm cm dm km mg kg lb lbs ml mL dL ft yd mi oz min hr hrs sec mph kph kmh mps rpm rad deg dB Hz Pa eV Wh"
_GLUED = frozenset(_SHORT.split())
"""Short units that may stand right behind a number; other letters there are symbols (``5m``, ``2ms``)."""

_CURRENCY = r"(?:(?:US|A|C|HK|NZ)?\$|[€£¥₹₩]|USD|EUR|GBP|INR|RMB|CNY|Rs\.?)"
_BEFORE = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:\\(?:text|mathrm)\s*\{{\s*)?(?P<currency>{_CURRENCY})\s*\}}?\s*(?P<rest>[-+\d.\\({{].*)",
    re.DOTALL,
)
_CURRENCIES = {"USD": "$", "EUR": "€", "GBP": "£", "INR": "₹", "RS": "₹", "RMB": "¥", "CNY": "¥"}
# A unit begins behind a digit, a closing bracket, a percent sign or pi.
_START = re.compile(r"(?:(?<=[\d})!%])|(?<=\\pi))(?P<gap>\s*)(?=[A-Za-z\\^$€£¥₹¢₩Ωμ]|\{\}\^)")
_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox|rm|operatorname)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\s*(?:\{\})?\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*(?P<scale>[CF](?![A-Za-z])|Celsius|Fahrenheit)?")
_POWER = r"\s*\^\s*\{?\s*(?P<power>-?[1-3])\s*\}?|\s*(?P<bare>[23])(?!\d)|\s+(?P<said>squared|cubed)(?![A-Za-z])"
_WORD = re.compile(
    rf"\s*(?:(?P<sq>sq(?:uare|\.)?|cubic|cu\.)\s*(?=[A-Za-z]))?(?P<word>[A-Za-zμΩ]+|[$€£¥₹₩¢])(?:\.(?!\d))?(?:{_POWER})?"
)
_BETWEEN = re.compile(r"\s*(?P<sign>/|\*|(?<=\s)per(?=\s))\s*|\s+")


def split_unit(text: str) -> tuple[str, str | None]:
    r"""Return a normalized answer without the unit beside it, and the unit (``cm^2``), None if it names none.

    ``12\text{ cm}^2``, ``12\pi cm^{2}``, ``12 square centimeters``, ``12 \mathrm{m}/\mathrm{s}`` and ``$12`` name one;
    ``12a`` and ``5m`` do not: a bare letter right behind a number is a symbol.
    """
    if len(text) > MAX_LENGTH:
        return text, None
    before = _BEFORE.fullmatch(text)
    if before:
        name = before["currency"].rstrip(".").upper()
        return f"{before['sign']}{before['rest']}", _CURRENCIES.get(name, name if len(name) == 1 else "$")
    for start in _START.finditer(text):
        unit = _unit(text, start)
        if unit is not None:
            return text[: start.start()], unit
    return text, None


def unit_of(text: str | None) -> str | None:
    """Return the unit that a name of one stands for; an unknown name stands for itself."""
    if text is None:
        return None
    return split_unit(f"1 {text}")[1] or text


def same_unit(left: str, right: str) -> bool:
    """Return whether two units may be meant to be the same; a unit of no name fits all, degrees both scales."""
    if left == right or "unit" in (left, right):
        return True
    if "unit" in (left.partition("^")[0], right.partition("^")[0]):
        return left.partition("^")[2] == right.partition("^")[2]
    names = {left, right}
    return names in ({"degree", "°C"}, {"degree", "°F"}, {"C", "°C"}, {"lb", "£"})


def _unit(text: str, start: re.Match[str]) -> str | None:
    """Return the unit that the rest of a text is, None if it is anything else."""
    rest = text[start.end() :]
    plain = _TEXT.sub(r"\1", rest)
    degrees = _DEGREES.fullmatch(plain)
    if degrees:
        return f"°{degrees['scale'][0]}" if degrees["scale"] else "degree"
    first = re.match(r"[A-Za-zμΩ]+", rest)
    if first is not None and "/" not in rest:  # a bare word, which may be symbols
        word, glued = first[0], not start["gap"]
        if rest in ("second", "in"):  # an ordinal, a preposition
            return None
        if len(word) == 1 and (glued or text[: start.start()].endswith("\\pi")):
            return None
        if len(word) < 4 and glued and word.islower() and word not in _GLUED:
            return None
    return _product(plain)


def _product(text: str) -> str | None:
    """Return a product or quotient of units in one spelling."""
    powers: Counter[str] = Counter()
    place, sign = 0, 1
    while True:
        match = _WORD.match(text, place)
        word = match["word"] if match else ""
        unit = UNITS.get(word) or (UNITS.get(word.lower()) if len(word) > 2 else None)
        if match is None or unit is None:
            return None
        power = int(match["power"] or match["bare"] or {"squared": 2, "cubed": 3}.get(match["said"] or "", 1))
        if match["sq"]:
            power *= 3 if match["sq"].startswith("cu") else 2
        numerator, _, denominator = unit.partition("/")
        for name, side in ((numerator, sign), (denominator, -sign)):
            if name:
                base, _, exponent = name.partition("^")
                powers[base] += side * power * int(exponent or 1)
        place = match.end()
        if not text[place:].strip():
            break
        between = _BETWEEN.match(text, place)
        if between is None:
            return None
        if between["sign"] in ("/", "per"):
            sign = -1  # for all that follows: a/b c is read as a/(b c)
        place = between.end()
    if "°C" in powers or "°F" in powers:
        del powers["degree"]  # of "degrees Celsius"
    above = "*".join(_raised(name, power) for name, power in sorted(powers.items()) if power > 0)
    below = "*".join(_raised(name, -power) for name, power in sorted(powers.items()) if power < 0)
    return f"{above or '1'}/{below}" if below else above or None


def _raised(name: str, power: int) -> str:
    return name if power == 1 else f"{name}^{power}"
