"""The grader of lists: as many items, each equal to its partner."""

from __future__ import annotations

import re

from saei.errors import shown
from saei.rewards.graders.key import AnswerKey
from saei.rewards.graders.quantities import quantity, same_quantity, unnamed
from saei.rewards.graders.tidy import plain_words, tidy
from saei.rewards.graders.verdict import Question, Verdict

MAX_ITEMS = 64
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def items(text: str) -> list[str]:
    r"""Return the items of a list: between commas, semicolons, ``and`` or ``or``, outside of any bracket."""
    text = text.replace("\\{", "{").replace("\\}", "}").strip()
    ordered = re.sub(r"\\(?:text|mathrm)\s*\{\s*(and|or|,)\s*\}", r" \1 ", text)
    if ordered and ordered[0] in _BRACKETS and _matching(ordered) == len(ordered) - 1:
        ordered = ordered[1:-1]
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(ordered):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append(ordered[start:place])
            start = place + 1
    parts.append(ordered[start:])
    words = [word for part in parts for word in re.split(r"\b(?:and|or)\b", part)]
    return [unnamed(word.strip().strip("'\"").strip()) for word in words if word.strip()]


def ordered(text: str) -> bool:
    """Return whether a list is in round or square brackets, where the order of its items counts."""
    text = text.strip()
    return text[:1] in ("[", "(") and _matching(text) == len(text) - 1


def grade_list(answer: str, key: AnswerKey) -> Verdict | Question:
    """As many items in the same order; in any order where the gold answer has no brackets or is a set."""
    neat_gold, neat = tidy(key.gold), tidy(answer)
    gold, given = items(neat_gold), items(neat)
    if len(given) > MAX_ITEMS or len(gold) != len(given):
        return Verdict(False, f"{len(given)} items, not {len(gold)}")
    if ordered(neat_gold):
        pairs = list(zip(gold, given, strict=True))
        left = [(a, b) for a, b in pairs if not _same(b, a, key)]
    else:
        rest, missing = list(given), []
        for one in gold:
            match = next((place for place, other in enumerate(rest) if _same(other, one, key)), None)
            if match is None:
                missing.append(one)
            else:
                rest.pop(match)
        left = list(zip(missing, rest, strict=True))
    if not left:
        return Verdict(True, "the same items")
    if any(_decided(a) and _decided(b) for a, b in left) or all(_decided(a) for a, _ in left):
        return Verdict(False, f"another item: '{shown(next(b for _, b in left))}'")
    opening, closing = ("(", ")") if ordered(neat_gold) else ("\\{", "\\}")
    return Question(*(f"{opening}{', '.join(side)}{closing}" for side in zip(*left, strict=True)))


def _same(given: str, gold: str, key: AnswerKey) -> bool:
    if plain_words(given) == plain_words(gold):
        return True
    a, b = quantity(given), quantity(gold)
    return a is not None and b is not None and same_quantity(a, b, key).correct


def _decided(item: str) -> bool:
    """Return whether comparing as number and as text says all there is: no algebra in it."""
    return quantity(item) is not None or not re.search(r"[\\^]|\d|\b[A-Za-z]\b", item)


def _matching(text: str) -> int | None:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place
    return None
