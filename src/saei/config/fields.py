"""What a field of a section may hold: a section, a strategy of some kind, and what its docstring says of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from saei.config.strategy import StrategyConfig


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field of this type holds, also one that may be None; None for any other field."""
    if NoneType in get_args(annotation):
        (annotation, *rest) = (option for option in get_args(annotation) if option is not NoneType)
        if rest:
            return None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def item_section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that each value of a mapping holds; None for any other field."""
    if get_origin(annotation) in (dict, Mapping):
        return section_of(get_args(annotation)[1])
    return None


def default_type(section: type[BaseModel], field: str) -> str | None:
    """Return the name of the default strategy of a field, None if it has none."""
    default = section.model_fields[field].get_default(call_default_factory=True)
    if isinstance(default, str):
        return default
    if isinstance(default, StrategyConfig):
        return default.type
    return str(default["type"]) if isinstance(default, Mapping) and "type" in default else None


def type_of(value: Any, default: str) -> str:
    """Return the name of the strategy in a strategy field's value."""
    mapping = typed(value, default)
    return str(mapping["type"]) if mapping else default


def typed(value: Any, default: str | None) -> dict[str, Any] | None:
    """Return a strategy field's value as a mapping with its type, None if it is neither name nor mapping."""
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, StrategyConfig):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value) if "type" in value or default is None else {"type": default, **value}
    return None


def field_docs(config: type[BaseModel]) -> dict[str, str]:
    """Return the descriptions of a config's fields from the ``Attributes`` sections of its docstrings."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        name = None
        _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
        for line in section.splitlines():
            start = re.match(r"    (\w+): (.*)", line)
            if start:
                name = start[1]
                docs[name] = start[2]
            elif name and line.startswith("        "):
                docs[name] += " " + line.strip()
            else:
                name = None
    return docs
