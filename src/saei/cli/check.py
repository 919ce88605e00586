"""``saei check``."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.options import AsJson
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.config.strategy import Strategy

KEPT, BROKEN, LEFT_OUT = "kept", "broken", "not checked"


def check(
    package: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE", help="An installed distribution, a folder with a pyproject.toml, or a file: ./mine.py."
        ),
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.FIELD=VALUE", help="A field of a strategy of the package; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold all strategies of a package to the contracts of their kinds; exit code 1 names the rule that is broken."""
    from saei.config.registry import load

    strategies = _strategies(package)
    settings = _settings(assignments or [], {name for _, name in strategies})
    rows: list[dict[str, str]] = []
    for kind, name in strategies:
        contract, why = _state(load(kind, name), settings.get(name, {}))
        rows.append({"kind": kind, "name": name, "contract": contract, "why": why})
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _show(rows)
    if any(row["contract"] == BROKEN for row in rows):
        sys.exit(1)


def _strategies(package: str) -> list[tuple[str, str]]:
    """Return kind and name of each strategy that a file, a folder or a distribution registers."""
    from saei.config.registry import KINDS, entries, load_file, load_plugin
    from saei.errors import ConfigError, nearest, shown

    installed = {entry.origin for kind in KINDS for entry in entries(kind)}
    path = Path(package)
    if package.endswith(".py"):
        load_plugin(package)
        origins = {load_file(path).__name__}
    elif (path / "pyproject.toml").is_file():
        return _of_folder(path)
    else:
        origins = {origin for origin in installed if _canonical(origin) == _canonical(package)}
    strategies = [(kind, entry.name) for kind in KINDS for entry in entries(kind) if entry.origin in origins]
    if not strategies:
        where = "with @register" if package.endswith(".py") else "by entry points"
        raise ConfigError(
            f"check takes a package that registers strategies {where}.",
            reason=f"'{shown(package)}' registers none, or is not installed.",
            remedy="Give a file, a folder with a pyproject.toml, or a distribution. " + nearest(package, installed),
        )
    return strategies


def _of_folder(folder: Path) -> list[tuple[str, str]]:
    """Register the strategies that a folder's pyproject.toml names, before the package is installed.

    Its modules are those of the folder, whatever is installed.

    Raises:
        ConfigError: If it names none, or another distribution has one of the names.
        PluginLoadError: If one does not import.
    """
    from saei.config.registry import KINDS, register
    from saei.config.strategy import Strategy
    from saei.errors import ConfigError, PluginLoadError, cause_of

    file = folder / "pyproject.toml"
    try:
        groups = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}).get("entry-points", {})
    except (OSError, ValueError) as error:
        raise ConfigError(
            "A package's pyproject.toml has to be readable.", reason=f"{file}: {error}.", remedy="Mend it."
        ) from error
    targets = [(kind, name, target) for kind, group in KINDS.items() for name, target in groups.get(group, {}).items()]
    if not targets:
        raise ConfigError(
            "A package names its strategies by entry points.",
            reason=f"{file} has none in a group of saei.",
            remedy='For example [project.entry-points."saei.selectors"]; `saei new selector lab/sharp` writes one.',
        )
    source = folder / "src" if (folder / "src").is_dir() else folder
    sys.path.insert(0, str(source.resolve()))
    for kind, name, target in targets:
        module, _, attribute = target.partition(":")
        try:
            cls: Any = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever the module does when it is imported
            raise PluginLoadError(
                f"The {kind} '{name}' has to be importable.",
                reason=f"{target} of {source}: {cause_of(error)}.",
                remedy=f"Mend that line, or the entry point in {file}.",
            ) from error
        if not (isinstance(cls, type) and issubclass(cls, Strategy) and (cls.kind, cls.name()) == (kind, name)):
            raise PluginLoadError(
                f"The entry point '{name}' of group {KINDS[kind]} has to be a {kind} whose Config names it '{name}'.",
                reason=f"{target} is {cls!r}.",
                remedy=f"Correct the class, or the entry point in {file}.",
            )
        register(cls)
    return [(kind, name) for kind, name, _ in targets]


def _settings(assignments: Sequence[str], names: set[str]) -> dict[str, dict[str, Any]]:
    """Return the fields that ``--set`` gives to strategies, by their names."""
    from saei.config.yaml import parse_value
    from saei.errors import ConfigError, nearest, shown

    settings: dict[str, dict[str, Any]] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        name, _, field = path.strip().rpartition(".")
        if not equals or name not in names:
            raise ConfigError(
                "--set takes NAME.FIELD=VALUE, of a strategy of the package.",
                reason=f"Got '{shown(text)}'.",
                remedy=nearest(name, names),
            )
        settings.setdefault(name, {})[field] = parse_value(value, f"--set {path}")
    return settings


def _state(cls: type[Strategy], fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return whether a strategy keeps its contract, and why not."""
    from pydantic import ValidationError

    from saei.config.explain import explain
    from saei.errors import SaeiError, cause_of
    from saei.testing import check_strategy
    from saei.testing.kinds import contract_of

    missing = [name for name, field in cls.Config.model_fields.items() if field.is_required() and name not in fields]
    if missing:
        return LEFT_OUT, f"without a default: {', '.join(missing)}; give values with --set {cls.name()}.{missing[0]}=…"
    if getattr(cls, "fetches", False):
        return LEFT_OUT, "it reads from a hub"
    if contract_of(cls.kind) is None:
        return LEFT_OUT, "its kind has no contract"
    try:
        config = cls.Config.model_validate(fields)
    except ValidationError as error:
        raise explain(cls.Config, fields, error.errors()) from error
    try:
        check_strategy(config)
    except AssertionError as error:
        rule = str(error) if str(error).startswith(f"{cls.name()}: ") else f"{cls.name()}: {cause_of(error)}"
        return BROKEN, rule
    except SaeiError as error:
        return BROKEN, f"{cls.name()}: {error}"
    except Exception as error:  # whatever the strategy raises where it should not
        return BROKEN, f"{cls.name()}: it raised an error: {cause_of(error)}"
    return KEPT, ""


def _show(rows: Sequence[Mapping[str, str]]) -> None:
    from rich.table import Table

    table = Table("kind", "name", "contract", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(row["kind"], row["name"], row["contract"])
    screen().print(table)
    left_out = [row for row in rows if row["contract"] == LEFT_OUT]
    if left_out:
        say("\n" + "\n".join(f"{row['name']} is not checked: {row['why']}." for row in left_out))
    for row in rows:
        if row["contract"] == BROKEN:
            say(f"\n{row['why']}", error=True)


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
