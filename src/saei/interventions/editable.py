"""What of a question's text may be changed, and what may be written in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from saei.types import View

NEGATIONS = frozenset(
    {"no", "not", "nor", "none", "never", "neither", "nothing", "nobody", "nowhere"}
    | {"cannot", "without", "except", "unless", "hardly", "false"}
)
"""Words that turn a sentence around."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_FROZEN = (
    re.compile(r"\$[^$]*\$|\\\([^)]*\\\)|\\\[.*?\\\]", re.DOTALL),  # formulas
    re.compile(r"\\[A-Za-z]+"),  # commands of LaTeX
    re.compile(r"^[ \t]*\(?[A-Z][.):][ \t].*$", re.MULTILINE),  # an option on a line of its own
    re.compile(r"\([A-Z]\)[^\n]*\([A-Z]\)[^\n]*"),  # options in a line
    re.compile(r"<[^<>\s]{1,40}>"),  # image markers and tags
)


def editable_places(view: View, protected: Sequence[str] = ()) -> list[bool]:
    """Return for each token of a view's question whether it may be swapped, or its embedding moved.

    Frozen are: everything that is no word of letters alone, hence digits, operators and punctuation; formulas; the
    options of a multiple choice; negations; the names in ``protected``; and the spans that the example protects. A word
    of several tokens is frozen as one.

    Args:
        view: The view.
        protected: Words that stay, in small or capital letters alike.
    """
    if view.question is None:
        return []
    frozen = list(_frozen_spans(view.example.question, protected))
    frozen += view.example.protected
    words = [match.span() for match in _WORD.finditer(view.example.question)]
    frozen += [word for word in words if any(_overlap(word, span) for span in frozen)]
    return [
        writable(view.example.question[start:end], protected) and not any(_overlap((start, end), s) for s in frozen)
        for start, end in view.question.spans
    ]


def writable(text: str, protected: Sequence[str] = ()) -> bool:
    """Return whether a token of this text may be written in another's place: what is frozen may not be added either."""
    word = text.strip()
    return word.isalpha() and not _turns(word) and word.casefold() not in {name.casefold() for name in protected}


def _frozen_spans(question: str, protected: Sequence[str]) -> Iterator[tuple[int, int]]:
    names = {name.casefold() for name in protected}
    for pattern in _FROZEN:
        yield from (match.span() for match in pattern.finditer(question))
    for match in _WORD.finditer(question):
        word = match[0]
        if not word.isalpha() or _turns(word) or word.casefold() in names:
            yield match.span()


def _turns(word: str) -> bool:
    lower = word.casefold().replace("\u2019", "'")
    return lower in NEGATIONS or lower.endswith("n't")


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]
