r"""What an answer comes to: the end of its work, ``m+n = 256+37 = 293``, or what it gives a name, ``x = 5``."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LENGTH = 1000  # characters of an answer with its work

_EQUAL = re.compile(r"=|\\approx(?![A-Za-z])|\\sim(?:eq)?(?![A-Za-z])")
_OTHER = re.compile(r"[<>;]|\\(?:le|ge|ne|lt|gt|in|to|mid|equiv|Rightarrow|implies|cup|cap|pm)(?![A-Za-z])")
_LIST = re.compile(r",(?!\d{3}(?!\d))|\b(?:and|or)\b")
_WORDS = re.compile(r"\\(?:text|textrm|mathrm|mbox|operatorname)\s*\{[^{}]*\}")
_MARKED = re.compile(
    r"\\(?:angle|triangle|overline|widehat|vec|bar|hat)\s*\{?\s*[A-Za-z0-9]{1,4}\s*\}?"  # an angle 1 is no number
    r"|_\s*(?:\{[^{}]*\}|\w)"
    r"|(?<![A-Za-z])[A-Za-mo-wA-Z]'*\([^()]*\)"  # f(3), but not x(x+1)
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SYMBOL = re.compile(r"[A-Za-z]+")


def conclusion(normalized: str) -> str:
    r"""Return what follows the last ``=`` or ``\approx`` of a normalized answer, and all of it if it is no such chain.

    ``2x = 10`` is none: an equation of one symbol and numbers is there to be solved, and what it says about its symbol
    is not its right side. ``5 = x`` names its left side.
    """
    parts = links(normalized)
    return parts[-1][1] if parts else normalized


def is_equation(normalized: str) -> bool:
    """Return whether a normalized text is an equation in its own right (``x^2+y^2 = 4``), not a value with its name."""
    parts = links(normalized)
    first = _unmarked(parts[0][1]) if parts else ""
    return bool(re.search(r"[A-Za-z]", first) and re.search(r"\d", first))


def rounded(normalized: str) -> str | None:
    r"""Return what stands before a last ``\approx``, which says the same exactly; None without one."""
    parts = links(normalized)
    return parts[-2][1] if len(parts) > 1 and parts[-1][0] != "=" else None


def links(normalized: str) -> list[tuple[str, str]]:
    """Return each link of a chain with the sign before it; none if the answer is not a chain."""
    if len(normalized) > MAX_LENGTH or not _EQUAL.search(normalized):
        return []
    parts = list(_split(normalized))
    first, last = parts[0][1], parts[-1][1]
    if len(parts) < 2 or any(not part for _, part in parts[1:]):
        return []
    outer = [_outside(_WORDS.sub("", part)) for _, part in parts]
    if any(_OTHER.search(part) or _LIST.search(part) for part in outer):
        return []
    if first and parts[1][0] == "=" and not _names(first):
        return []
    if len(parts) == 2 and re.fullmatch(r"[A-Za-z]", last) and re.search(r"\d", first):
        return [parts[1], parts[0]]
    return parts


def _names(text: str) -> bool:
    """Return whether the left side of a chain can be a name or a calculation, rather than an equation to be solved."""
    plain = _unmarked(text)
    return len({*_SYMBOL.findall(plain)}) != 1 or not re.search(r"\d", plain)


def _unmarked(text: str) -> str:
    """Return the bare symbols, numbers and signs: without words, subscripts, functions' arguments and commands."""
    return _COMMAND.sub(" ", _MARKED.sub(" ", _WORDS.sub("", text)))


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Yield the parts between the signs of equality that stand outside of any bracket."""
    depth = start = 0
    sign = ""
    for match in re.finditer(r"[(\[{]|[)\]}]|" + _EQUAL.pattern, text):
        token = match[0]
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif depth == 0:
            yield sign, text[start : match.start()].strip()
            sign, start = "=" if token == "=" else "~", match.end()
    yield sign, text[start:].strip()


def _outside(text: str) -> str:
    """Return what stands outside of any bracket."""
    depth, outside = 0, []
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and sign not in ")]}":
            outside.append(sign)
    return "".join(outside)
