"""What of a question's text may be changed, and what may be written in its place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TypeAlias

from saei.types import Example, View

Span: TypeAlias = tuple[int, int]
"""Characters from the first to before the second."""

NEGATIONS = frozenset(
    {"no", "not", "nor", "none", "never", "neither", "nothing", "nobody", "nowhere"}
    | {"cannot", "without", "except", "unless", "hardly", "false"}
    | {"nicht", "kein", "keine", "keinen", "nie", "ohne", "ne", "pas", "jamais", "sans", "ni", "nunca", "sin"}
    | {"не", "нет", "ни", "без", "不", "没", "無", "无", "非", "未", "别", "ない", "ません", "नहीं"}
)
"""Words that turn a sentence around. Those of a language that is not among them belong into ``protected``."""

QUANTITIES = frozenset(
    {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}
    | {"hundred", "thousand", "half", "twice", "double", "plus", "minus", "times", "divided", "multiplied"}
)
"""Numbers and operators in words."""

_FROZEN = (
    re.compile(r"\$\$.*?\$\$|\$[^$]+\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL),  # formulas
    re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL),
    re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})*"),  # commands of LaTeX with their arguments
    re.compile(
        r"^[ \t]*\(?(?:[A-Za-z]|\d{1,2})[.):\u3001\uff0e\uff1a][ \t]*\S.*$", re.MULTILINE
    ),  # an option on a line
    re.compile(r"(?<!\w)\(?[Aa][.):]\s.*?(?<!\w)\(?[Bb][.):]\s.*$", re.DOTALL),  # options behind one another
    re.compile(r"^[ \t]*(?:choices|options)\b.*$", re.MULTILINE | re.IGNORECASE),
    re.compile(r"<[^<>\s]{1,40}>"),  # image markers and tags
    re.compile(r"\w+n['\u2019]t\b", re.IGNORECASE),
)


def editable_places(view: View, protected: Sequence[str] = ()) -> list[bool]:
    """Return for each token of a view's question whether it may be swapped, or its embedding moved.

    Frozen are: everything that is no word of letters alone, hence digits, operators and punctuation; numbers and
    operators in words; formulas; the options of a multiple choice; negations; the names in ``protected``; and the spans
    that the example protects. A word of several tokens is frozen as one.

    Args:
        view: The view.
        protected: Words or phrases that stay, in small or capital letters alike.
    """
    if view.question is None:
        return []
    text, frozen = view.example.question, _frozen_in(view.example, protected)
    return [
        writable(text[start:end]) and not any(_overlap((start, end), span) for span in frozen)
        for start, end in view.question.spans
    ]


def has_editable_word(example: Example, protected: Sequence[str] = ()) -> bool:
    """Return whether some word of a question is not frozen; if none is, no token of it is editable."""
    frozen = _frozen_in(example, protected)
    return any(not any(_overlap(word, span) for span in frozen) for word in word_spans(example.question))


def _frozen_in(example: Example, protected: Sequence[str]) -> list[Span]:
    """Return the frozen parts of a question, and the words that they reach into."""
    text = example.question
    frozen = [*_frozen_spans(text, protected), *example.protected]
    return frozen + [word for word in word_spans(text) if any(_overlap(word, span) for span in frozen)]


def writable(text: str, protected: Sequence[str] = ()) -> bool:
    """Return whether a token of this text may be written in another's place: what is frozen may not be added either."""
    word = text.strip()
    return _of_letters(word) and not any(True for _ in _named(word, protected))


def writes_frozen(before: View, after: View, protected: Sequence[str] = ()) -> bool:
    """Return whether swaps have written something that is frozen, such as a negation of several tokens."""
    assert before.question is not None
    assert after.question is not None
    text = after.example.question
    swapped = (before.prompt_ids_P != after.prompt_ids_P)[after.question.places_Q].tolist()
    spans = [span for span, other in zip(after.question.spans, swapped, strict=True) if other]
    frozen = list(_frozen_spans(text, protected))
    frozen += [word for word in word_spans(text) if any(_overlap(word, span) for span in frozen)]
    return any(_overlap(span, other) for span in spans for other in frozen)


def word_spans(text: str) -> list[Span]:
    """Return where a text's words are: runs of letters and digits, with apostrophes between them.

    Scripts that are written without spaces have wide letters, such as Chinese; each of these is a word.
    """
    spans, start = [], None
    for place, character in enumerate(f"{text} "):
        inside = unicodedata.category(character)[0] in "LMN" or character == "_"
        if character in "'\u2019" and start is not None:
            inside = text[place + 1 : place + 2].isalpha()
        wide = inside and _wide(character)
        if start is not None and (wide or not inside):
            spans.append((start, place))
            start = None
        if wide:
            spans.append((place, place + 1))
        elif inside and start is None:
            start = place
    return spans


def _frozen_spans(text: str, protected: Sequence[str]) -> Iterator[Span]:
    for pattern in _FROZEN:
        yield from (match.span() for match in pattern.finditer(text))
    for start, end in word_spans(text):
        if not _of_letters(text[start:end]):
            yield start, end
    yield from _named(text, protected)


def _named(text: str, protected: Sequence[str]) -> Iterator[Span]:
    """Yield where negations, quantities and protected names are."""
    yield from (match.span() for match in _names(tuple(protected)).finditer(text))


@cache
def _names(protected: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for all names: whole words, but anywhere in scripts that are written without spaces."""
    patterns = [
        re.escape(name) if any(map(_wide, name)) else rf"(?<!\w){re.escape(name)}(?!\w)"
        for name in sorted(NEGATIONS | QUANTITIES | set(protected), key=len, reverse=True)
        if name
    ]
    return re.compile("|".join(patterns), re.IGNORECASE)


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _of_letters(word: str) -> bool:
    """Return whether a word has letters, and nothing else but the marks that belong to them."""
    kinds = {unicodedata.category(character)[0] for character in word}
    return "L" in kinds and kinds <= {"L", "M"}


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
