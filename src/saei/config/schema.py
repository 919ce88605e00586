"""The JSON Schema of a run's configuration file, with all strategies that are registered.

pydantic writes the schema of the sections. What it cannot know is what an open strategy field holds: the name of any
registered strategy of its kind, or a mapping with the fields of one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from saei.config.aliases import ALIASES
from saei.config.fields import default_type, field_docs
from saei.config.registry import KINDS, entries, load
from saei.config.run import RunConfig
from saei.config.strategy import STRATEGY_KIND, StrategyConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the JSON Schema of a configuration file; it imports every registered strategy.

    It knows names, fields and the types of their values. A mapping without ``type`` may have the fields of any strategy
    of its kind, since which one it is depends on the defaults below it.

    Raises:
        PluginLoadError: If a registered strategy does not import.
    """
    strategies = {
        f"{kind}.{entry.name}".replace("/", "."): load(kind, entry.name).Config
        for kind in KINDS
        for entry in entries(kind)
    }
    models: dict[str, type[BaseModel]] = {"RunConfig": RunConfig, **strategies}
    references, whole = models_json_schema(
        [(model, "validation") for model in models.values()], ref_template=f"{REFERENCE}{{model}}"
    )
    names = {references[model, "validation"]["$ref"].removeprefix(REFERENCE): name for name, model in models.items()}
    definitions = {names.get(name, name): _renamed(node, names) for name, node in whole["$defs"].items()}
    for name, model in models.items():
        _describe(definitions[name], model)
    for model in _sections(RunConfig, *strategies.values()):
        if model.__name__ in definitions:
            _describe(definitions[model.__name__], model)
    for kind in KINDS:
        of_kind = [name for name in strategies if name.partition(".")[0] == kind]
        choices = [entry.name for entry in entries(kind)]
        definitions[kind] = {
            "description": f"The name of a {kind}, or a mapping with its fields.",
            "anyOf": [{"enum": choices}, *({"$ref": f"{REFERENCE}{name}"} for name in of_kind)],
        }
    top = _file(definitions)
    return {"$schema": DIALECT, "title": "saei", **top, "$defs": _reachable(definitions, top)}


def _file(definitions: Mapping[str, Schema]) -> Schema:
    """Return the schema of a file: the sections, the aliases of longer paths, and dotted paths."""
    top = dict(definitions["RunConfig"])
    aliases = {alias: _at(definitions, path) for alias, path in ALIASES.items()}
    top["properties"] = aliases | top["properties"]
    top["patternProperties"] = {f"^({'|'.join(top['properties'])})\\.": {}}
    return top


def _at(definitions: Mapping[str, Schema], path: str) -> Schema:
    """Return the schema of a field by its path, through the default strategies of the fields above it."""
    model: type[BaseModel] = RunConfig
    node: Schema = {}
    for word in path.split("."):
        field = model.model_fields[word]
        node = definitions[_name_of(model)]["properties"][word]
        kind = next((each for each in KINDS if node.get("$ref") == f"{REFERENCE}{each}"), None)
        default = default_type(model, word)
        if kind is not None and default is not None:
            model = load(kind, default).Config
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return {key: value for key, value in node.items() if key != "default"}


def _name_of(model: type[BaseModel]) -> str:
    if issubclass(model, StrategyConfig):
        return f"{model.strategy.kind}.{model.strategy.name()}".replace("/", ".")
    return model.__name__


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """Return a schema with the names of strategies in its references, and each open field with its kind's."""
    if isinstance(node, list):
        return [_renamed(item, names) for item in node]
    if not isinstance(node, Mapping):
        return node
    if STRATEGY_KIND in node:
        reference = {"$ref": f"{REFERENCE}{node[STRATEGY_KIND]}"}
        nullable = {"type": "null"} in node.get("anyOf", ())
        default = {"default": node["default"]} if "default" in node else {}
        return ({"anyOf": [reference, {"type": "null"}]} if nullable else reference) | default
    renamed = {key: _renamed(value, names) for key, value in node.items()}
    if isinstance(node.get("$ref"), str):
        name = node["$ref"].removeprefix(REFERENCE)
        renamed["$ref"] = REFERENCE + names.get(name, name)
    return renamed


def _describe(definition: Schema, model: type[BaseModel]) -> None:
    """Put what docstrings say into a schema: the first line, and a line for each field."""
    documented = model.strategy if issubclass(model, StrategyConfig) else model
    definition["description"] = _plain((inspect.getdoc(documented) or "").split("\n")[0])
    definition.pop("title", None)
    for name, text in field_docs(model).items():
        if name in definition.get("properties", {}):
            definition["properties"][name]["description"] = _plain(text)
    for node in definition.get("properties", {}).values():
        node.pop("title", None)


def _plain(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))


def _sections(*models: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the sections that configs hold, at any depth."""
    waiting, seen = list(models), set(models)
    while waiting:
        model = waiting.pop()
        if model not in models:
            yield model
        for field in model.model_fields.values():
            for inner in _models_in(field.annotation):
                if inner not in seen and not issubclass(inner, StrategyConfig):
                    seen.add(inner)
                    waiting.append(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


def _reachable(definitions: Mapping[str, Schema], top: Schema) -> dict[str, Schema]:
    """Return the definitions that something refers to, sorted."""
    reached: set[str] = set()
    waiting: list[Any] = [top]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            name = node["$ref"].removeprefix(REFERENCE) if isinstance(node.get("$ref"), str) else None
            if name is not None and name not in reached:
                reached.add(name)
                waiting.append(definitions[name])
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return {name: definitions[name] for name in sorted(reached)}
