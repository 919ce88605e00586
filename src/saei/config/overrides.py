"""The layers of a configuration: defaults < file < flags < ``--set``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from saei.config.aliases import ALIASES
from saei.config.fields import default_type, item_section, section_of, type_of, typed
from saei.config.registry import entries, load, load_plugin
from saei.config.run import RunConfig, dump, validate
from saei.config.strategy import strategy_kind
from saei.config.yaml import MAX_DEPTH, parse_value, read_yaml
from saei.errors import ConfigError, shown


def parse_assignment(text: str) -> dict[str, Any]:
    """Turn ``attack.step=4/255`` into a nested mapping; values are YAML, the first word may be an alias.

    Raises:
        ConfigError: If there is no ``=`` or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    words = path.strip().split(".")
    if not equals or not all(words) or len(words) > MAX_DEPTH:
        raise ConfigError(
            "--set takes PATH=VALUE.", reason=f"Got '{shown(text)}'.", remedy="For example --set attack.steps=2."
        )
    return nested(path.strip(), parse_value(value, f"--set {path}"))


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return ``{"a": {"b": value}}`` for ``a.b``, aliases expanded."""
    first, _, rest = path.partition(".")
    words = [*ALIASES.get(first, first).split("."), *(rest.split(".") if rest else [])]
    for word in reversed(words):
        value = {word: value}
    return dict(value)


def combine(
    settings: Iterable[Mapping[str, Any]], *, where: str, last_wins: bool = False, paths: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return several settings of one layer as one mapping, whatever their order.

    ``attack.steps=3`` and ``attack.type=fgsm`` are one mapping: neither drops the other.

    Args:
        settings: Nested mappings.
        where: Names the layer in errors.
        last_wins: Whether a later setting may replace an earlier one of the same field.
        paths: Where the mappings stand.

    Raises:
        ConfigError: If a setting would drop another.
    """
    whole: dict[str, Any] = {}
    for setting in settings:
        for key, value in setting.items():
            values = (whole[key], value) if key in whole else ()
            if any(isinstance(each, Mapping) for each in values):
                # A strategy's name is short for its type.
                mappings = [{"type": each} if isinstance(each, str) else each for each in values]
                if not all(isinstance(each, Mapping) for each in mappings):
                    raise _dropped(where, (*paths, key), *values)
                value = combine(mappings, where=where, last_wins=last_wins, paths=(*paths, key))
            elif values and values[0] != value and not last_wins:
                raise ConfigError(
                    f"{where} sets each field once.",
                    reason=f"{'.'.join((*paths, key))} is {shown(repr(values[0]))} and {shown(repr(value))}.",
                    remedy="Leave one of them out.",
                )
            whole[key] = value
    return whole


def _dropped(where: str, path: tuple[str, ...], *values: Any) -> ConfigError:
    name = ".".join(path)
    below, value = values if isinstance(values[0], Mapping) else values[::-1]
    return ConfigError(
        "No setting drops another.",
        reason=f"{where} sets {name} to {shown(repr(value))} and also {name}.{next(iter(below), '')}.",
        remedy="Leave one of them out.",
    )


def command_line(flags: Iterable[Mapping[str, Any]], assignments: Iterable[str]) -> dict[str, Any]:
    """Return the layer made of a command's flags and ``--set``; ``--set`` wins over a flag of the same field.

    Raises:
        ConfigError: If one of them would drop another.
    """
    where = "The command line"
    return combine([*flags, *map(parse_assignment, assignments)], where=where, last_wins=True)


def merge(section: type[BaseModel], base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one layer over another: another ``type`` replaces a strategy's section, the same type keeps its fields."""
    merged = dict(base)
    for key, value in over.items():
        if key not in section.model_fields:
            merged[key] = value
            continue
        kind = strategy_kind(section, key)
        if kind is None:
            annotation = section.model_fields[key].annotation
            inner, item = section_of(annotation), item_section(annotation)
            below = merged.get(key, section.model_fields[key].get_default(call_default_factory=True))
            if inner is not None and isinstance(value, Mapping):
                value = merge(inner, _mapping(below), value)
            elif item is not None and isinstance(value, Mapping):
                value = _merge_items(item, _mapping(below), value)
            merged[key] = value
            continue
        default = default_type(section, key)
        current = merged.get(key, section.model_fields[key].get_default(call_default_factory=True))
        below = typed(current, default)
        above = typed(value, default and type_of(current, default))
        if above is None or "type" not in above:  # what is wrong with it is said where the whole is validated
            merged[key] = value
            continue
        same = below is not None and below.get("type") == above.get("type")
        underneath = below if same and below is not None else {}
        if above["type"] in [entry.name for entry in entries(kind)]:
            above = dict(load(kind, above["type"]).Config.placed(above, underneath))
        merged[key] = merge(load(kind, above["type"]).Config, underneath, above) if same else above
    return merged


def _merge_items(section: type[BaseModel], base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one layer of a mapping of sections over another, name by name."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name, {})
        merged[name] = merge(section, _mapping(below), value) if isinstance(value, Mapping) else value
    return merged


def load_config(
    *,
    file: Path | None = None,
    flags: Iterable[Mapping[str, Any]] = (),
    assignments: Iterable[str] = (),
    plugins: Iterable[str] = (),
) -> RunConfig:
    """Read a run's configuration from its layers: defaults < file < flags < assignments.

    Raises:
        ConfigError: Naming the field, the offending value and the remedy.
        PluginLoadError: If a requested plugin does not import.
    """
    written = [nested(key, value) for key, value in read_yaml(file).items()] if file else []
    below = combine(written, where=str(file))
    above = command_line(flags, assignments)
    requested = [
        *_plugins([below], file.parent if file else Path()),
        *_plugins([above, {"plugins": list(plugins)}], Path()),
    ]
    for plugin in requested:
        load_plugin(plugin)
    data: dict[str, Any] = {}
    for layer in (below, above):
        data = merge(RunConfig, data, layer)
    if requested:
        data["plugins"] = list(dict.fromkeys(requested))
    return validate(data)


def assigned(config: RunConfig, assignments: Iterable[str]) -> RunConfig:
    """Return a configuration with some of its fields set, as by ``--set``.

    Raises:
        ConfigError: If a field is wrong.
    """
    return validate(merge(RunConfig, dump(config), command_line((), assignments)))


def _plugins(layers: Iterable[Mapping[str, Any]], home: Path) -> list[str]:
    """Return the plugins that layers name; files as absolute paths, which a resumed run finds from any folder."""
    names: list[str] = []
    for layer in layers:
        value = layer.get("plugins")
        names += [value] if isinstance(value, str) else map(str, value) if isinstance(value, list) else []
    return [os.path.realpath(home / os.path.expanduser(name)) if name.endswith(".py") else name for name in names]


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value if isinstance(value, Mapping) else {}


def changed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted paths of the fields in which two dumped configurations differ."""
    paths = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            paths += changed(old, new, f"{prefix}{key}.")
        elif old != new:
            paths.append(f"{prefix}{key}")
    return paths
