"""Errors of a configuration by path, with the fields that exist there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from saei.config.fields import default_type, item_section, section_of, typed
from saei.config.format import REMOVED
from saei.config.registry import entries, load
from saei.config.strategy import Open, strategy_kind
from saei.errors import ConfigError, nearest, shown

MOST_LINES = 16
"""Most wrong fields that one error names."""

MOST_MESSAGES = 6
"""Most messages about one field: enough for the members of a union; a mapping may have any number of wrong keys."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a configuration something is wrong.

    Attributes:
        path: Dotted, as ``--set`` takes it; empty for the whole configuration.
        section: What holds the field; None below a field that is no section.
        topic: The strategy or section that ``saei show`` explains.
    """

    path: str
    section: type[BaseModel] | None
    topic: str


def explain(root: type[BaseModel], data: Mapping[str, Any], errors: list[Any]) -> ConfigError:
    """Return one error with one line per field; what the members of a union say is one line."""
    lines: dict[str, list[str]] = {}
    topics: dict[str, None] = {}
    for item in errors:
        place = _locate(root, data, item["loc"])
        lines.setdefault(place.path, []).append(_message(item, place))
        if place.topic:
            topics[f"`saei show {place.topic}`"] = None
    problems = []
    for path, messages in lines.items():
        if len(messages) > MOST_MESSAGES:
            messages[MOST_MESSAGES:] = [f"And {len(messages) - MOST_MESSAGES} more."]
        problems.append(f"{path}: {' Or: '.join(messages)}" if path else " ".join(messages))
    if len(problems) > MOST_LINES:
        problems[MOST_LINES:] = [f"And {len(problems) - MOST_LINES} more."]
    return ConfigError("\n".join(problems), remedy=f"The fields: {', '.join(topics)}." if topics else "")


def _message(item: Any, place: _Place) -> str:
    if item["type"] == "extra_forbidden":
        if place.path in REMOVED:
            return f"This field is gone. {REMOVED[place.path].instead}"
        name = str(item["loc"][-1])
        known = nearest(name, place.section.model_fields) if place.section else ""
        if name == "intervention":
            known += f" {_where_interventions_are(place)}"
        return f"There is no such field. {known}".rstrip()
    if item["type"] == "missing":
        return "This field is required."
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{message}." if item["type"] == "value_error" else f"{message}. Got {shown(repr(item['input']))}."


def _where_interventions_are(place: _Place) -> str:
    section, prefix = place.section, place.path.rpartition(".")[0]
    for field in section.model_fields if section else ():
        if section and strategy_kind(section, field) == "sampler":
            return f"That of the sampler that this one draws with stands at `{prefix}.{field}.intervention`."
    return "Only samplers that intervene have an `intervention`, such as `mixed`."


def _locate(root: type[BaseModel], data: Any, loc: tuple[int | str, ...]) -> _Place:
    """Follow a location through sections and strategies, as far as it names fields."""
    section: type[BaseModel] | None = root
    items: type[BaseModel] | None = None
    topic, path, item_kind = "", [], None
    for word in loc:
        data = _below(data, word)
        if isinstance(word, int):
            kind, default = item_kind, None
        elif items is not None:  # the word is a name in a mapping of sections
            kind, section, items = None, items, None
        elif section is None:
            break
        elif word not in section.model_fields:
            path.append(shown(word))
            break
        else:
            kind, default = strategy_kind(section, word), default_type(section, word)
            annotation = section.model_fields[word].annotation
            item_kind = _item_kind(annotation)
            section, items = section_of(annotation), item_section(annotation)
            topic = topic or (word if section else "")
        path.append(str(word))
        if kind:
            mapping = typed(data, default) or {}
            known = mapping.get("type") in [entry.name for entry in entries(kind)]
            section, topic = (load(kind, mapping["type"]).Config, mapping["type"]) if known else (None, "")
    return _Place(".".join(path), section, topic)


def _below(data: Any, word: int | str) -> Any:
    """Return the value at a key or index, None where there is none."""
    try:
        return data[word]
    except (LookupError, TypeError):
        return None


def _item_kind(annotation: Any) -> str | None:
    """Return the kind of a list of strategies."""
    for item in get_args(annotation):
        for meta in get_args(item)[1:]:
            if isinstance(meta, Open):
                return meta.kind
    return None
