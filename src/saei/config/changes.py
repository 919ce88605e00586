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
    usual, chosen = flat(dump(validate({}))), flat(_defaults(config))
    found = []
    for path, value in flat(config).items():
        defaults = usual if path.endswith(".type") or path not in chosen else chosen
        if path not in defaults or defaults[path] != value:
            found.append(Change(path, as_text(value), as_text(defaults[path]) if path in defaults else ""))
    return found


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return plain data by dotted paths."""
    if isinstance(value, Mapping) and value:
        parts = [flat(inner, f"{path}.{name}" if path else str(name)) for name, inner in value.items()]
        return {name: inner for part in parts for name, inner in part.items()}
    return {path: value}


def as_text(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the strategies that a configuration chose, as far as they need no plugin and no field."""
    try:
        return dump(validate(_types(config)))
    except SaeiError:
        return dump(validate({}))


def _types(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the chosen strategies alone, nested as they are."""
    types: dict[str, Any] = {}
    for name, inner in value.items():
        if name == "type":
            types[name] = inner
        elif isinstance(inner, Mapping) and (below := _types(inner)):
            types[str(name)] = below
    return types
