"""The role that a launcher gave this process, read without importing torch."""

from __future__ import annotations

import os


def first_process() -> bool:
    """Return whether this process writes and shows: the only one, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
