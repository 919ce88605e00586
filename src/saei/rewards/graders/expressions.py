r"""The grader of expressions: by text and by value here; what needs algebra is asked of the workers."""

from __future__ import annotations

import re

from saei.errors import shown
from saei.rewards.graders.base import AlgebraQuestion, AnswerKey, Verdict
from saei.rewards.graders.chains import conclusion, is_equation
from saei.rewards.graders.normalize import normalize
from saei.rewards.graders.quantities import parse_quantity, same_quantity
from saei.rewards.graders.units import split_unit

MAX_LENGTH = 400  # characters; longer answers are not given to algebra
MAX_DEPTH = 24
MAX_DIGITS = 60  # of one number
_COMMAND = re.compile(r"\\[A-Za-z]+")
_NO_SYMBOLS = re.compile(r"\\(?:text|mathrm|operatorname|begin|end)\s*\{[^{}]*\}")
_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\\circ\b|\{\s*\\circ\s*\})")
_TOWER = re.compile(r"\d\s*(?:\^|\*\*)\s*[{(]?\s*-?(?:\d{5}|\d+\s*(?:\^|\*\*))")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_UPRIGHT = re.compile(r"\\(?:mathrm|mathit|mathbf|textit|text)\s*\{\s*([A-Za-z])\s*\}")
_BARE_FUNCTION = re.compile(r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|ln|log|exp)(?![A-Za-z])")
_LONG_WORD = re.compile(r"[A-Za-z]{4,}")
_FUNCTIONS = re.compile(r"\b(?:sqrt|sinh?|cosh?|tanh?|arcsin|arccos|arctan|log|exp)\b")


def expression(answer: str, key: AnswerKey) -> Verdict | AlgebraQuestion:
    """The same mathematical expression: the same text, the same value, or equal by algebra."""
    normalized, gold = normalize(answer), normalize(key.gold)
    if normalized and _compact(normalized) == _compact(gold):
        return Verdict(True, "the same text")
    equation = is_equation(gold)
    given, wanted = parse_quantity(answer), None if equation else parse_quantity(key.gold)
    if given is not None and wanted is not None:
        return same_quantity(given, wanted, key)
    reason = unfit_for_algebra(normalized)
    if reason:
        return Verdict(False, reason)
    left, right = gold if equation else conclusion(gold), conclusion(normalized)
    if "=" not in left and "=" not in right:  # x = 5 and 5 say the same
        gold, normalized = left, right
    elif "=" in right and "=" not in gold:
        return Verdict(False, f"an equation, not an expression: '{shown(answer)}'")
    if _compact(normalized) == _compact(gold):
        return Verdict(True, "the same text")
    (gold, unit), (normalized, given_unit) = _without_unit(gold), _without_unit(normalized)
    if unit and given_unit and unit != given_unit:
        return Verdict(False, f"in {given_unit}, not in {unit}")
    if _letters(gold) != _letters(normalized) and _letters(gold).casefold() == _letters(normalized).casefold():
        return Verdict(False, f"other symbols: '{shown(answer)}'")
    return AlgebraQuestion(_for_algebra(gold), _for_algebra(normalized))


def unfit_for_algebra(normalized: str) -> str:
    """Return why a normalized answer is not worth algebra, an empty text if it is."""
    if not normalized:
        return "an empty answer"
    if len(normalized) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    depth = deepest = 0
    for sign in normalized:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"brackets nested deeper than {MAX_DEPTH}"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", normalized):
        return f"a number of more than {MAX_DIGITS} digits"
    if _TOWER.search(normalized):
        return "a power too large to work out"
    words = _FUNCTIONS.sub("", _NO_SYMBOLS.sub("", normalized))
    words = _COMMAND.sub("", words)
    if _LONG_WORD.search(words):
        return f"words, not an expression: '{shown(normalized)}'"
    return ""


def _for_algebra(text: str) -> str:
    """Write functions as commands, upright symbols as symbols, and the degrees of a trigonometric function as radians.

    Elsewhere a degree sign is a unit.
    """
    text = _braced_roots(text)
    text = _BARE_FUNCTION.sub(r"\\\1 ", _UPRIGHT.sub(r"\1", text))
    return _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text) if _TRIGONOMETRIC.search(text) else text


def _braced_roots(text: str) -> str:
    r"""Write ``\sqrt (x)``, which comes of ``sqrt(x)``, as LaTeX has it."""
    for root in reversed(list(re.finditer(r"\\sqrt\s*\(", text))):
        depth = 1
        for place in range(root.end(), len(text)):
            depth += (text[place] == "(") - (text[place] == ")")
            if depth == 0:
                text = f"{text[: root.start()]}\\sqrt{{{text[root.end() : place]}}}{text[place + 1 :]}"
                break
    return text


def _without_unit(text: str) -> tuple[str, str | None]:
    r"""Take off a unit that is marked as text; a bare one may be a symbol."""
    return split_unit(text) if "\\text" in text or "\\mathrm" in text else (text, None)


def _compact(text: str) -> str:
    return re.sub(r"\s+(?![A-Za-z])|(?<![A-Za-z])\s+", "", text)


def _letters(text: str) -> str:
    """Return the symbols of an expression, each once; neither commands nor words of text."""
    text = _NO_SYMBOLS.sub("", text)
    return "".join(sorted(set(re.findall(r"[A-Za-z]", _COMMAND.sub("", _FUNCTIONS.sub("", text))))))
