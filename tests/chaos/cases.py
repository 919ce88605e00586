"""What the chaos suite shares: how much it tries, from which seed, and what an error may look like.

It tries little beside the other slow tests, and all of it in `make chaos`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager

from saei.errors import SaeiError

FULL = os.environ.get("SAEI_CHAOS") == "full"
SEED = int(os.environ.get("SAEI_CHAOS_SEED", "0"))

LONGEST_S = 5.0
"""Seconds in which everything that is hostile has to be over."""

LONGEST_ERROR = 6000
"""Characters of an error; sixteen fields are named at once."""

DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Signs that change the direction of what follows."""

Tried = Callable[[str], None]
InTime = Callable[[], AbstractContextManager[None]]


def size(short: int, full: int) -> int:
    """Return how many cases are tried."""
    return full if FULL else short


def readable(error: SaeiError) -> None:
    """Check that an error may be shown to somebody."""
    said = str(error)
    assert error.rule
    assert len(said) < LONGEST_ERROR, said[:500]
    assert not acting(said), repr(said[:500])


def acting(text: str) -> list[str]:
    """Return the signs of a text that do something to a terminal; a line feed may."""
    return [
        sign
        for sign in text.replace("\n", "")
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(sign) in DIRECTIONS
    ]
