r"""One spelling for what is written in many ways: spaces, signs, delimiters and wrappers of an answer."""

from __future__ import annotations

import re
import unicodedata

SUPERSCRIPTS = str.maketrans({sign: f"^{{{plain}}}" for sign, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)})
SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014", "-"),
        **dict.fromkeys("\u00d7\u2217\u22c5\u00b7", "*"),
        **dict.fromkeys("°º˚", "^\\circ "),
        "÷": "/",
        "\u2044": "/",
        "π": "\\pi ",
        "√": "\\sqrt ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "≈": "\\approx ",
        "\u222a": "\\cup ",
        "∠": "\\angle ",
        "\u2019": "'",
    }
)
"""Signs that LaTeX or a keyboard spells otherwise; after Unicode's own compatibility forms."""

COMMANDS = {
    "dfrac": "\\frac",
    "tfrac": "\\frac",
    "cfrac": "\\frac",
    "cdot": "*",
    "times": "*",
    "div": "/",
    "degree": "^\\circ ",
    "leq": "\\le ",
    "geq": "\\ge ",
    "neq": "\\ne ",
    "left": "",
    "right": "",
    "bigl": "",
    "bigr": "",
    "displaystyle": "",
    "quad": " ",
    "qquad": " ",
}
_COMMAND = re.compile(r"\\(" + "|".join(COMMANDS) + r")(?![A-Za-z])")
_THIN = re.compile(r"\\[,!;: ]|\{,\}|~")
_VULGAR = re.compile(r"(\d)([½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|boxed|fbox|underline|bm|boldsymbol)\s*\{"
)
_LEAD = re.compile(r"(?:the\s+|my\s+)?(?:final\s+|correct\s+)?(?:answer|result)\s*(?:is\s*:?|:|=)\s*", re.IGNORECASE)
_STOP = re.compile(r"(?<=[^\s.,;])\s*[.,;]$")
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def tidy(text: str) -> str:
    r"""Return an answer in one spelling: no control characters, delimiters, wrappers, full stop or preface.

    Unicode signs become LaTeX (``−`` a minus, ``145°`` is ``145^\circ``, ``x²`` is ``x^{2}``), synonymous commands
    one command, thin spaces vanish between digits. The meaning is left alone.
    """
    text = _VULGAR.sub(r"\1 \2", text).translate(SUPERSCRIPTS)
    text = unicodedata.normalize("NFKC", text).translate(SIGNS)
    text = "".join(sign if sign.isprintable() else " " for sign in text if unicodedata.category(sign) != "Cf")
    text = _THIN.sub(_thin, text).replace("\\%", "%").replace("\\$", "$")
    text = _COMMAND.sub(lambda found: COMMANDS[found[1]], text)
    text = " ".join(text.split())
    before = None
    while before != text:
        before = text
        text = _unwrapped(_LEAD.sub("", text, count=1) if _LEAD.match(text) else text)
    return text


def _thin(found: re.Match[str]) -> str:
    """A thin space or a protected comma between digits separates thousands; elsewhere it is a space."""
    text, start, end = found.string, found.start(), found.end()
    between = text[max(0, start - 1) : start].isdigit() and text[end : end + 3].isdigit()
    return "" if between or found[0] == "\\!" else "," if found[0] == "{,}" else " "


def _unwrapped(text: str) -> str:
    """Take one layer off: a full stop, math delimiters or a wrapping command around the whole."""
    text = _STOP.sub("", text.strip())
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : len(text) - len(closing)]
        if (
            len(text) > 2 * len(opening)
            and text.startswith(opening)
            and text.endswith(closing)
            and opening not in inner
        ):
            return inner.strip()
    wrapper = _WRAPPER.match(text)
    if wrapper and closing_brace(text, wrapper.end()) == len(text) - 1:
        return text[wrapper.end() : -1].strip()
    return text


def closing_brace(text: str, start: int) -> int | None:
    r"""Return the place of the ``}`` that closes the ``{`` just before ``start``; escaped braces do not count."""
    depth = 1
    for brace in re.finditer(r"\\[{}]|[{}]", text[start:]):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return start + brace.start()
    return None


def plain_words(text: str) -> str:
    """Return a tidied text for a comparison of words: without LaTeX's text commands, in one case."""
    text = re.sub(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(text.casefold().split()).strip(" .,;:!\"'")
