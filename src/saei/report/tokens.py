"""A response's tokens for people to look at: their text, and colours for entropy and its change.

The same colours serve terminal, page and picture: light ones under dark letters, so that they read on any ground.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from saei.errors import printable

ENTROPIES = (0.05, 0.2, 0.5, 1.0, 1.5, 2.5)
"""Entropies in nats at which the next darker shade begins; the same on every page, so that pages can be compared."""

SHADES = ("#fff3c4", "#ffe3a0", "#ffcd7d", "#ffb06a", "#fa9566", "#ee7d6b")
"""From low to high entropy; below the first limit a token has no colour."""

CHANGES = (0.001, 0.01, 0.05, 0.2)
"""Changes of the entropy in nats, to either side, at which the next darker shade begins."""

RISES = ("#ffe3d8", "#ffc4b0", "#ffa589", "#f2876f")
"""Of tokens whose entropy rose, by how much."""

FALLS = ("#dcebff", "#bcd8fd", "#9bc3f7", "#7fb0ee")
"""Of tokens whose entropy fell, by how much."""

LETTERS = "#15191d"
"""The colour of letters on any of these."""

LONGEST = 8
"""Tokens after which an unfinished character is shown as it is: one has at most four bytes, each a token at worst."""


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text of each token, so that all of them joined are the response with its special tokens.

    A character that several tokens spell belongs to the last of them; the others are empty. A space that a tokenizer
    drops at the start of a text is kept within it.

    Args:
        tokenizer: A tokenizer of transformers.
        ids: The tokens of one response.
    """
    pieces: list[str] = []
    # Decoded from the last piece but one on, since tokenizers treat the start of a text, and bytes that make no
    # character, in ways of their own: from `start` to `done` is the last piece, from there on the next one.
    start = done = 0
    for end in range(1, len(ids) + 1):
        before, after = _decoded(tokenizer, ids[start:done]), _decoded(tokenizer, ids[start:end])
        unfinished = after.endswith("\N{REPLACEMENT CHARACTER}") and end - done < LONGEST
        if unfinished and end < len(ids):
            pieces.append("")
            continue
        pieces.append(after[len(before) :])
        start, done = done, end
    return pieces


def shade_level(entropy: float) -> int:
    """Return how many of ``ENTROPIES`` an entropy reaches."""
    return bisect_right(ENTROPIES, entropy)


def change_level(change: float) -> int:
    """Return how many of ``CHANGES`` a change of entropy reaches, negative for a fall."""
    level = bisect_right(CHANGES, abs(change))
    return level if change > 0 else -level


def shade(entropy: float) -> str | None:
    """Return the colour of an entropy in nats, None for hardly any."""
    level = shade_level(entropy)
    return SHADES[level - 1] if level else None


def change_shade(change: float) -> str | None:
    """Return the colour of a change of entropy in nats, red for a rise and blue for a fall, None for hardly any."""
    level = change_level(change)
    return (RISES if level > 0 else FALLS)[abs(level) - 1] if level else None


def visible(piece: str) -> str:
    """Return a token's text as one sees it: line feeds are marked, and nothing in it acts on terminal or page."""
    return printable(piece).replace("\n", "⏎\n")


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""
    return str(text)
