"""``saei list``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from saei.cli.options import FLAG, AsJson, Plugins
from saei.console import say, screen


def list_strategies(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Only this kind, such as attack.")] = None,
    check: Annotated[
        bool, typer.Option("--check", metavar=FLAG, help="Import each; name the broken ones and leave with 2.")
    ] = False,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List the strategies that are installed, by kind, and where each comes from."""
    from saei.config.registry import KINDS, entries, load_plugin

    for name in plugin or []:
        load_plugin(name)
    rows: list[dict[str, Any]] = []
    for each in [kind] if kind else KINDS:
        for entry in entries(each):
            row = {"kind": entry.kind, "name": entry.name, "origin": entry.origin, "target": entry.target}
            rows.append(row | ({"error": _problem(each, entry.name)} if check else {}))
    broken = [row for row in rows if row.get("error")]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _show(rows, check=check)
        for row in broken:
            say(f"\n{row['error']}", error=True)
    if broken:
        sys.exit(2)


def _problem(kind: str, name: str) -> str | None:
    from saei.config.registry import load
    from saei.errors import SaeiError

    try:
        load(kind, name)
    except SaeiError as error:
        return str(error)
    return None


def _show(rows: list[dict[str, Any]], *, check: bool) -> None:
    from rich.table import Table

    table = Table("kind", "name", "from", *(["state"] if check else []), box=None, padding=(0, 2, 0, 0))
    previous = None
    for row in rows:
        state = ["broken" if row["error"] else "ok"] if check else []
        table.add_row(row["kind"] if row["kind"] != previous else "", row["name"], row["origin"], *state)
        previous = row["kind"]
    screen().print(table)
