"""A configuration by dotted paths, as ``--set`` takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def flat(value: Any, path: str = "") -> dict[str, bool | int | float | str]:
    """Return nested plain data by dotted paths; lists, empty mappings and null become JSON."""
    if isinstance(value, Mapping) and value:
        parts = [flat(inner, f"{path}.{name}" if path else str(name)) for name, inner in value.items()]
        return {name: inner for part in parts for name, inner in part.items()}
    return {path: value if isinstance(value, bool | int | float | str) else json.dumps(value)}
