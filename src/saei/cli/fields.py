"""The fields of a section or strategy as rows of text."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saei.strategy import StrategyConfig, field_docs, strategy_kind


class Row(NamedTuple):
    """One field.

    Attributes:
        path: As ``--set`` takes it, from the section on.
        default: As YAML; ``required`` where there is none.
        meaning: From the section's docstring.
    """

    path: str
    default: str
    meaning: str


def field_rows(section: type[BaseModel], prefix: str = "", values: BaseModel | None = None) -> list[Row]:
    """Return one row per field; the fields of inner sections follow under their path, ``type`` is left out.

    Args:
        section: The section or a strategy's config.
        prefix: Path of the section.
        values: What stands there by default, where that differs from the section's own defaults.
    """
    docs = field_docs(section)
    rows = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if name == "type":
            continue
        value = getattr(values, name) if values else field.get_default(call_default_factory=True)
        if strategy_kind(section, name) is None and isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += field_rows(inner, f"{prefix}{name}.", None if field.is_required() else value)
        else:
            meaning = re.sub(r"\bNone\b", "null", docs.get(name, "").replace("``", "`"))
            rows.append(Row(prefix + name, _default(field, value), meaning))
    return rows


def _default(field: FieldInfo, value: Any) -> str:
    if field.is_required():
        return "required"
    if isinstance(value, StrategyConfig):
        return value.type
    if isinstance(value, str):
        return value
    text = json.dumps(value, default=str)
    return text[1:-1] if text.startswith('"') else text
