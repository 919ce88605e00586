"""A run's settings beside the defaults of this version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saei.config.run import dump, validate
from saei.errors import SaeiError


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is not the default.

    Attributes:
        path: Dotted, as ``--set`` takes it.
        value: As ``--set`` takes it.
        default: Likewise; empty where the defaults have no such setting.
    """

    path: str
    value: str
    default: str


def changes(config: Mapping[str, Any]) -> list[Change]:
    """Return the settings of plain data that are not the defaults.

    The fields of a strategy are compared with that strategy's own defaults. No plugin is imported, and no function
    that the configuration names.
    """
    values = flat(config)
    depths = range(1 + max((path.count(".") for path in values), default=0))
    defaults = [flat(_defaults(config, depth)) for depth in depths]
    changed = []
    for path, value in values.items():
        # A strategy's name is one of the fields of the strategy above it.
        known = defaults[path.count(".") - 1 if path.endswith(".type") else -1]
        if path not in known or known[path] != value:
            changed.append(Change(path, as_text(value), as_text(known[path]) if path in known else ""))
    return changed


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return plain data by dotted paths."""
    if isinstance(value, Mapping) and value:
        parts = [flat(inner, f"{path}.{name}" if path else str(name)) for name, inner in value.items()]
        return {name: inner for part in parts for name, inner in part.items()}
    return {path: value}


def as_text(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _defaults(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return the defaults of the strategies chosen down to a depth, as far as they need no plugin and no field."""
    try:
        return dump(validate(_types(config, depth)))
    except SaeiError:
        return dump(validate({}))


def _types(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return the names of the chosen strategies down to a depth alone, nested as they are."""
    types: dict[str, Any] = {}
    for name, inner in value.items():
        if name == "type":
            types[name] = inner
        elif depth and isinstance(inner, Mapping) and (below := _types(inner, depth - 1)):
            types[str(name)] = below
    return types
