"""``saei list``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer


def list_strategies(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, such as attack.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Import each and show the broken ones.")] = False,
    plugin: Annotated[list[str] | None, typer.Option(help="Python file or module with strategies; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the registered strategies of each kind and where they come from."""
    from saei.registry import KINDS, entries, load_plugin

    for name in plugin or []:
        load_plugin(name)
    rows: list[dict[str, Any]] = []
    for each in [kind] if kind else KINDS:
        for entry in entries(each):
            row = {"kind": entry.kind, "name": entry.name, "origin": entry.origin, "target": entry.target}
            rows.append(row | ({"error": _problem(each, entry.name)} if check else {}))
    broken = [row for row in rows if row.get("error")]
    if as_json:
        print(json.dumps(rows))
    else:
        _show(rows, check=check)
    if broken:
        sys.exit(2)


def _problem(kind: str, name: str) -> str | None:
    from saei.errors import SaeiError
    from saei.registry import load

    try:
        load(kind, name)
    except SaeiError as error:
        return str(error)
    return None


def _show(rows: list[dict[str, Any]], *, check: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", "name", "from", *(["state"] if check else []), box=None)
    previous = None
    for row in rows:
        state = [row["error"] or "ok"] if check else []
        table.add_row(row["kind"] if row["kind"] != previous else "", row["name"], row["origin"], *state)
        previous = row["kind"]
    Console().print(table)
