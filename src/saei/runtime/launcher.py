"""What a launcher says of this process, without an import of torch."""

from __future__ import annotations

import os


def first_process() -> bool:
    """Return whether this is the only process, or of those that a launcher started the one that writes and shows."""
    return os.environ.get("RANK", "0") == "0"
