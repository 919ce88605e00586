"""``saei show``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from saei.cli.options import Plugins
from saei.console import screen
from saei.errors import printable

if TYPE_CHECKING:
    from rich.text import Text

    from saei.cli.fields import FieldRow


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A strategy, such as pgd, or a section: training.")],
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only the strategy of this kind.")] = None,
    plugin: Plugins = None,
) -> None:
    """Show what a strategy or a section of the configuration does, its fields and their defaults."""
    from saei.cli.fields import field_rows
    from saei.config.registry import KINDS, entries, load, load_plugin
    from saei.config.run import SECTIONS
    from saei.errors import ConfigError, nearest

    for each in plugin or []:
        load_plugin(each)
    known = [entry for each in ([kind] if kind else KINDS) for entry in entries(each)]
    sections = {} if kind else SECTIONS
    found = [load(entry.kind, entry.name) for entry in known if entry.name == name]
    if not found and name not in sections:
        raise ConfigError(
            f"'{name}' is no registered {kind or 'strategy'}" + ("." if kind else " and no section."),
            remedy=nearest(name, {entry.name for entry in known} | set(sections)),
        )
    if name in sections:
        _print(name, "section of the configuration", sections[name], field_rows(sections[name]))
    for strategy in found:
        _print(name, strategy.kind, strategy, field_rows(strategy.Config))


def _print(name: str, what: str, documented: type, rows: Sequence[FieldRow]) -> None:
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    from saei.cli.docstrings import as_markdown

    console = screen()
    console.print(Text.assemble((printable(name), "bold"), f"  {what}"))
    console.print(Markdown(as_markdown(documented), code_theme="ansi_dark"))
    if rows:
        table = Table("field", "default", "meaning", box=None, padding=(0, 2, 0, 0))
        table.columns[0].no_wrap = True
        for row in rows:
            table.add_row(Text(row.path), Text(row.default), _with_code(row.meaning))
        console.print()
        console.print(table)
    console.print()


def _with_code(text: str) -> Text:
    """Return a text whose words in backticks look as the docstring's do."""
    from rich.text import Text

    parts = text.split("`")
    return Text.assemble(*((part, "markdown.code" if number % 2 else "") for number, part in enumerate(parts)))
