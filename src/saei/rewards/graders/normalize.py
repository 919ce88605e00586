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
        "\u3002": ".",
        "\u3001": ",",
        "\u3010": "[",
        "\u3011": "]",
        "\u2126": "Ω",
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
    "textdegree": "^\\circ ",
    **dict.fromkeys(("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr"), ""),
    **dict.fromkeys(("displaystyle", "textstyle", "limits", "nolimits"), ""),
    **dict.fromkeys(("quad", "qquad", "enspace", "thinspace"), " "),
    "infin": "\\infty ",
}
_COMMAND = re.compile(r"\\(" + "|".join(COMMANDS) + r")(?![A-Za-z])")
_THIN = re.compile(r"\\[,!;:> ]|\{,\}|~")
_GROUP = re.compile(r"(?<=\d),\\!\s*(?=\d{3}(?!\d))")
_VULGAR = re.compile(r"(\d)([½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_PERCENT = re.compile(
    r"(?<=[\d})])\s*(?:\\(?:text|mathrm|textrm|mbox)\s*\{\s*(?:per ?cent|pct|%)\s*\}|(?:per ?cent|pct)(?![A-Za-z]))",
    re.IGNORECASE,
)
_FUNCTION = re.compile(r"(?<![A-Za-z\\])(?:sqrt(?=\s*[({])|pi(?![A-Za-z])|infinity(?![A-Za-z]))")
# Stars of Markdown stand beside a space, a sign or nothing; those of a power stand between numbers.
_MARKDOWN = re.compile(r"(?<![\w)}\]*])(\*\*|__|`)(?=[^\s*_`])([^*_`]{1,400})(?<=\S)\1(?![\w({\[\\*])")
_STARRED = re.compile(r"([*_])(?=[^\s*_])([^*_]{1,400})(?<=\S)\1")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mbox|boxed|fbox|underline|bm|boldsymbol)"
    r"\s*\{"
)
_LEAD = re.compile(r"(?:the\s+|my\s+)?(?:final\s+|correct\s+)?(?:answer|result)\s*(?:is\s*:?|:|=)\s*", re.IGNORECASE)
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def normalize(text: str) -> str:
    r"""Return an answer in one spelling: no control characters, delimiters, wrappers, Markdown, full stop or preface.

    Unicode signs become LaTeX (``−`` a minus, ``145°`` is ``145^\circ``, ``x²`` is ``x^{2}``), synonymous commands
    one command, thin spaces vanish between digits. The meaning is left alone. It takes linear time.
    """
    text = _VULGAR.sub(r"\1 \2", text).translate(SUPERSCRIPTS)
    text = unicodedata.normalize("NFKC", text).translate(SIGNS)
    text = "".join(sign if sign.isprintable() else " " for sign in text if unicodedata.category(sign) != "Cf")
    text = _THIN.sub(_thin, _GROUP.sub(",", text)).replace("\\%", "%").replace("\\$", "$")
    text = _COMMAND.sub(lambda match: COMMANDS[match[1]], text)
    text = _FUNCTION.sub(lambda match: "\\infty " if match[0] == "infinity" else f"\\{match[0]} ", text)
    text = _PERCENT.sub("%", _MARKDOWN.sub(r"\2", text))
    return _unwrapped(" ".join(text.split()))


def _thin(match: re.Match[str]) -> str:
    """A thin space or a protected comma between digits separates thousands; elsewhere it is a space."""
    text, start, end = match.string, match.start(), match.end()
    between = text[max(0, start - 1) : start].isdigit() and text[end : end + 3].isdigit()
    return "" if between or match[0] == "\\!" else "," if match[0] == "{,}" else " "


def _unwrapped(text: str) -> str:
    """Take off, layer by layer, what is around the whole: a preface, full stops, math delimiters, wrapping commands.

    The layers are counted off from both ends of the one text: copying it for each would be quadratic.
    """
    closed_by = _closing_braces(text)
    start, end = 0, len(text)
    while True:
        before = start, end
        while start < end and text[start] == " ":
            start += 1
        while start < end and text[end - 1] == " ":
            end -= 1
        lead = _LEAD.match(text, start, end)
        if lead:
            start = lead.end()
        if start < end and text[end - 1] in ".,;":
            last = end - 2 - (text[end - 2] == " ")
            if last >= start and text[last] not in " .,;":
                end = last + 1
        for opening, closing in _DELIMITERS:
            inner = start + len(opening), end - len(closing)
            if (
                inner[0] < inner[1]
                and text.startswith(opening, start)
                and text.endswith(closing, inner[1], end)
                and text.find(opening, *inner) < 0
            ):
                start, end = inner
                break
        wrapper = _WRAPPER.match(text, start, end)
        if wrapper and closed_by.get(wrapper.end()) == end - 1:
            start, end = wrapper.end(), end - 1
        if (start, end) == before:
            break
    starred = _STARRED.fullmatch(text, start, end)
    return _unwrapped(starred[2]) if starred else text[start:end]


def _closing_braces(text: str) -> dict[int, int]:
    r"""Return for the place behind each ``{`` that of its ``}``; escaped braces do not count."""
    closed_by: dict[int, int] = {}
    opened: list[int] = []
    for brace in re.finditer(r"\\[{}]|[{}]", text):
        if brace.group() == "{":
            opened.append(brace.end())
        elif brace.group() == "}" and opened:
            closed_by[opened.pop()] = brace.start()
    return closed_by


def closing_brace(text: str, start: int) -> int | None:
    r"""Return the place of the ``}`` that closes the ``{`` just before ``start``; escaped braces do not count."""
    depth = 1
    for brace in re.compile(r"\\[{}]|[{}]").finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def plain_words(text: str) -> str:
    """Return a normalized text for a comparison of words: without LaTeX's text commands, in one case."""
    text = re.sub(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(text.casefold().split()).strip(" .,;:!\"'")
