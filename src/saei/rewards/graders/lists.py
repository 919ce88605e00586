"""The grader of lists: as many items, each equal to its partner."""

from __future__ import annotations

import re
from collections.abc import Iterator

from saei.errors import shown
from saei.rewards.graders.base import AlgebraQuestion, AnswerKey, Verdict
from saei.rewards.graders.chains import conclusion
from saei.rewards.graders.normalize import normalize, plain_words
from saei.rewards.graders.quantities import parse_quantity, same_quantity

MAX_ITEMS = 64
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_BETWEEN = re.compile(r"[(\[{]|[)\]}]|;|,|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD_IN_TEXT = re.compile(r"\\(?:text|mathrm)\s*\{\s*(and|or|,)\s*\}")


def split_items(text: str) -> list[str]:
    r"""Return the items of a list: between commas, semicolons, ``and`` or ``or``, outside of any bracket.

    A comma between a digit and just three others groups digits (``1,000, 2,000``), unless no other sign separates
    items (``100,200``).
    """
    text = _WORD_IN_TEXT.sub(r" \1 ", text.replace("\\{", "{").replace("\\}", "}")).strip()
    if text[:1] in _BRACKETS and _matching(text) == len(text) - 1:
        text = text[1:-1]
    separators = list(_separators(text))
    others = [separator for separator in separators if not _GROUPED.match(text, separator.start())]
    separators = others or separators
    starts = [0, *(separator.end() for separator in separators)]
    ends = [*(separator.start() for separator in separators), len(text)]
    parts = (text[start:end].strip() for start, end in zip(starts, ends, strict=True))
    return [conclusion(part.strip("'\"").strip()) for part in parts if part]


def _separators(text: str) -> Iterator[re.Match[str]]:
    depth = 0
    for match in _BETWEEN.finditer(text):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            yield match


def ordered(text: str) -> bool:
    """Return whether a list is in round or square brackets, where the order of its items counts."""
    text = text.strip()
    return text[:1] in ("[", "(") and _matching(text) == len(text) - 1


def grade_list(answer: str, key: AnswerKey) -> Verdict | AlgebraQuestion:
    """As many items in the same order; in any order where the gold answer has no brackets or is a set."""
    normalized_gold, normalized = normalize(key.gold), normalize(answer)
    gold, given = split_items(normalized_gold), split_items(normalized)
    if len(given) > MAX_ITEMS or len(gold) != len(given):
        return Verdict(False, f"{len(given)} items, not {len(gold)}")
    if ordered(normalized_gold):
        pairs = list(zip(gold, given, strict=True))
        left = [(a, b) for a, b in pairs if not _same(b, a, key)]
    else:
        rest, missing = list(given), []
        for item in gold:
            match = next((place for place, candidate in enumerate(rest) if _same(candidate, item, key)), None)
            if match is None:
                missing.append(item)
            else:
                rest.pop(match)
        left = list(zip(missing, rest, strict=True))
    if not left:
        return Verdict(True, "the same items")
    if any(_decided(a) and _decided(b) for a, b in left) or all(_decided(a) for a, _ in left):
        return Verdict(False, f"another item: '{shown(next(b for _, b in left))}'")
    opening, closing = ("(", ")") if ordered(normalized_gold) else ("\\{", "\\}")
    return AlgebraQuestion(*(f"{opening}{', '.join(side)}{closing}" for side in zip(*left, strict=True)))


def _same(given: str, gold: str, key: AnswerKey) -> bool:
    if plain_words(given) == plain_words(gold):
        return True
    a, b = parse_quantity(given), parse_quantity(gold)
    return a is not None and b is not None and same_quantity(a, b, key).correct


def _decided(item: str) -> bool:
    """Return whether comparing as number and as text is enough, because there is no algebra in it."""
    return parse_quantity(item) is not None or not re.search(r"[\\^]|\d|\b[A-Za-z]\b", item)


def _matching(text: str) -> int | None:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place
    return None
