r"""Whether a text is mathematics that someone would write, or words."""

from __future__ import annotations

import re

MAX_LENGTH = 400  # characters

_FUNCTION_NAMES = """
sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln lg exp sqrt max min gcd lcm mod det dim lim
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_COMMAND = re.compile(r"\\[A-Za-z]+|\\[{}|\\ ]")
_BETWEEN_FORMULAS = re.compile(r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*(?:and|or|if|for|,)?\s*\}")
_NAMES = re.compile(r"\\(?:begin|end|mathbb|mathcal|mathrm|operatorname)\s*\*?\s*\{[^{}]*\}(?:\{[lcr|]+\})?")
_TEXT = re.compile(r"\\(?:text|textrm|textbf|mbox)\s*\{([^{}]*)\}")
_PIECE = re.compile(r"(?P<number>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)|(?P<letters>[A-Za-z]+)|(?P<sign>.)", re.DOTALL)
# One symbol, a multiple of a few, or a function of one.
_SHORT = re.compile(
    r"[A-Za-z]|\d+(?:\.\d+)?[A-Za-z]{1,3}|(?:\d+ ?)?(?:sin|cos|tan|cot|sec|csc|ln|log) ?(?:\d*[a-z]|\d+)", re.ASCII
)
_ORDINAL = re.compile(r"\d+\s*(?:st|nd|rd|th|am|pm|s)", re.IGNORECASE)
# A day, a range or score, a time or ratio: numbers with signs between them that are no operators.
_NO_CALCULATION = re.compile(r"\d{1,4}/\d{1,2}/\d{1,4}|\d+(?:-\d+)+|\d+(?:\s*:\s*\d+)+(?:\s*[AaPp][Mm])?", re.ASCII)
_WEAK = "-/ ."
_BINARY = "+-*/^=<>_"
_CLOSES = ")]}"


def is_written_number(normalized: str) -> bool:
    """Return whether a normalized text that reads as a number is meant as one: ``2019-05-01`` and ``3-2`` are not."""
    return not _NO_CALCULATION.fullmatch(normalized)


def is_mathematics(normalized: str) -> bool:
    r"""Return whether a normalized text as a whole is an expression, an equation, a set or the like.

    It is if every run of letters can be symbols, functions or segments, and the signs between them make a formula:
    ``mx + b``, ``AB = CD``, ``2ab``. ``2 dogs``, ``Vitamin C``, ``x-ray``, ``H2O``, ``A+`` and ``3:2`` are words.
    """
    if not normalized or len(normalized) > MAX_LENGTH:
        return False
    if not is_written_number(normalized) or normalized.casefold() == "n/a":
        return False
    if _SHORT.fullmatch(normalized):
        return not _ORDINAL.fullmatch(normalized)
    plain = _NAMES.sub(" ", _BETWEEN_FORMULAS.sub(" ", normalized))
    commands = _COMMAND.search(plain) is not None or "\\begin" in normalized
    if any(len(word) > 1 for text in _TEXT.findall(plain) for word in re.findall(r"[A-Za-z]+", text)):
        return False
    pieces = [(str(match.lastgroup), match[0], match.start()) for match in _PIECE.finditer(_COMMAND.sub(" ", plain))]
    signs = {piece for kind, piece, _ in pieces if kind == "sign"}
    if not commands and not signs <= set(" ()[]{}|!',&" + _BINARY + "%"):
        return False
    strong = commands or bool(signs - set(_WEAK + ",'"))
    letters = [(piece, place) for kind, piece, place in pieces if kind == "letters"]
    if not all(_symbols(piece, strong, commands or _attached(plain, piece, place)) for piece, place in letters):
        return False
    if commands:  # LaTeX that is broken is a fault of the gold answer, and no words
        return True
    if not signs:
        return False
    return _is_formula([piece for _, piece, _ in pieces if piece != " "], normalized)


def _symbols(run: str, strong: bool, attached: bool) -> bool:
    """Return whether a run of letters can be a product of symbols, a function or the corners of a figure."""
    if len(run) == 1 or run in _FUNCTIONS:
        return True
    if not strong:
        return False
    return len(run) == 2 or (len(run) <= 4 and run.isupper()) or (len(run) == 3 and attached)


def _attached(text: str, run: str, place: int) -> bool:
    """Return whether a run of letters touches a number, an exponent or a bracket."""
    return text[max(0, place - 1) : place] in (*"0123456789)",) or text[place + len(run) :][:1] in (*"^_(",)


def _is_formula(pieces: list[str], normalized: str) -> bool:
    """Return whether operators have operands and brackets their partners."""
    depth = 0
    before = ""
    for piece in pieces:
        depth += (piece in "([{") - (piece in _CLOSES)
        operand = piece[0].isalnum() or piece[0] == "."
        if depth < 0 or (operand and piece[0].isdigit() and before[:1].isalnum()):
            return False  # a number behind a letter or another number
        alone = not before or before in _BINARY or before in "([{,"
        doubled = piece in "=*" and before in ("<", ">", "*")  # <=, >= and **
        if piece in _BINARY and piece not in "+-" and alone and not doubled:
            return False
        if piece in _CLOSES and before in _BINARY and before:
            return False
        before = piece
    words = re.search(r"[A-Za-z]+ +[A-Za-z]", normalized) is not None and not re.search(r"[+*^=<>|!]", normalized)
    return depth == 0 and before not in _BINARY and before != "," and not words
