"""How much the chaos suite tries, and from which seed: little beside the other slow tests, all of it in `make chaos`."""

from __future__ import annotations

import os

FULL = os.environ.get("SAEI_CHAOS") == "full"
SEED = int(os.environ.get("SAEI_CHAOS_SEED", "0"))

LONGEST_S = 5.0
"""Seconds in which everything that is hostile has to be over."""


def size(short: int, full: int) -> int:
    """Return how many cases are tried."""
    return full if FULL else short
