"""The fields of a section or strategy as rows of text."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saei.strategy import default_type, field_docs, strategy_kind


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


def field_rows(section: type[BaseModel], prefix: str = "") -> list[Row]:
    """Return one row per field; the fields of inner sections follow under their path, ``type`` is left out."""
    docs = field_docs(section)
    rows = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if name == "type":
            continue
        if strategy_kind(section, name) is None and isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += field_rows(inner, f"{prefix}{name}.")
        else:
            meaning = re.sub(r"\bNone\b", "null", docs.get(name, "").replace("``", "`"))
            rows.append(Row(prefix + name, default_type(section, name) or _default(field), meaning))
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    text = json.dumps(value, default=str)
    return text[1:-1] if text.startswith('"') else text
