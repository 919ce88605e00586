"""A response's tokens for people to look at: their text, and colours for entropy and its change.

The same colours serve terminal, page and picture: light ones under dark letters, so that they read on any ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saei.errors import printable

SHADES = ("#fff3c4", "#ffdd8f", "#ffbd70", "#fb9a66", "#ee7d6b")
"""From low to high entropy; the lowest sixth of the scale has no colour."""

RISES = ("#ffe3d8", "#ffb59e", "#f2876f")
"""Of tokens whose entropy rose, by how much."""

FALLS = ("#dcebff", "#a9cdfb", "#7fb0ee")
"""Of tokens whose entropy fell, by how much."""

LETTERS = "#15191d"
"""The colour of letters on any of these."""

UNCHANGED = 0.05
"""Change of entropy, as a share of the scale, below which a token counts as unchanged."""

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


def shade(entropy: float, top: float) -> str | None:
    """Return the colour of a token's entropy, None for hardly any.

    Args:
        entropy: In nats.
        top: The entropy of the strongest colour, in nats.
    """
    level = int(len(SHADES) * 1.2 * _share(entropy, top)) - 1
    return None if level < 0 else SHADES[min(level, len(SHADES) - 1)]


def change_shade(change: float, top: float) -> str | None:
    """Return the colour of a change of entropy, red for a rise and blue for a fall, None for hardly any.

    Args:
        change: In nats.
        top: The change of the strongest colour, in nats.
    """
    colours, share = RISES if change > 0 else FALLS, _share(abs(change), top)
    return None if share < UNCHANGED else colours[min(int(len(colours) * share), len(colours) - 1)]


def visible(piece: str) -> str:
    """Return a token's text as one sees it: line feeds are marked, and nothing in it acts on terminal or page."""
    return printable(piece).replace("\n", "⏎\n")


def _share(value: float, top: float) -> float:
    return min(1.0, max(0.0, value / top)) if top > 0 else 0.0


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""
    return str(text)
