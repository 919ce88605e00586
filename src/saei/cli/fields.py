"""The fields of a section or strategy as rows of text."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saei.config.fields import field_docs, item_section, section_of
from saei.config.strategy import StrategyConfig, strategy_kind


class FieldRow(NamedTuple):
    """One field.

    Attributes:
        path: As ``--set`` takes it, from the section on.
        default: As YAML; ``required`` where there is none.
        meaning: From the section's docstring.
    """

    path: str
    default: str
    meaning: str


def field_rows(section: type[BaseModel], prefix: str = "", values: BaseModel | None = None) -> list[FieldRow]:
    """Return one row per field; an inner section's fields have its path in front, ``type`` is left out.

    A section that may be None, and a mapping of sections, has a row of its own before them.

    Args:
        section: The section or a strategy's config.
        prefix: Path of the section.
        values: Default values that differ from the section's own.
    """
    docs = field_docs(section)
    rows = []
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation) if strategy_kind(section, name) is None else None
        if name == "type":
            continue
        value = getattr(values, name) if values else field.get_default(call_default_factory=True)
        if inner is None or field.annotation is not inner:
            meaning = re.sub(r"\bNone\b", "null", docs.get(name, "").replace("``", "`"))
            rows.append(FieldRow(prefix + name, _default(field, value), meaning))
        if inner is not None:
            rows += field_rows(inner, f"{prefix}{name}.", value if isinstance(value, BaseModel) else None)
        item = item_section(field.annotation)
        if item is not None:
            rows += field_rows(item, f"{prefix}{name}.NAME.")
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
