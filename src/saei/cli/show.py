"""``saei show``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Annotated

import typer

from saei.cli.options import Plugins
from saei.console import say, screen
from saei.errors import printable

if TYPE_CHECKING:
    from rich.text import Text

    from saei.cli.fields import FieldRow

_DIRECTIVE = re.compile(r"^\.\. (?:code-block|code|sourcecode)::[ ]*(\w*)\n((?:[ ]*\n|[ ]+.*(?:\n|$))*)", re.MULTILINE)
_LITERAL = re.compile(r"(?<=\S)::\n\n((?:[ ]*\n|[ ]{2,}.*(?:\n|$))+)")
_ADMONITION = re.compile(r"^\.\. (note|warning|tip|important)::[ ]*(.*\n(?:[ ]*\n|[ ]+.*(?:\n|$))*)", re.MULTILINE)
_ROLE = re.compile(r":(?:[a-z]+:)*[a-z]+:`~?([^`<]+?)(?: <[^>]*>)?`")
_LINK = re.compile(r"`([^`<]+?) <([^>]+)>`__?")
_SECTIONS = "Args|Attributes|Examples?|Keyword Args|Notes?|Raises|References|Returns|See Also|Warnings?|Yields"
_SECTION = re.compile(rf"^({_SECTIONS}):\n((?:[ ]*\n|[ ]+.*(?:\n|$))+)", re.MULTILINE)
_ITEM = re.compile(r"^(\*{0,2}\w+)(?: \([^)]*\))?:[ ]", re.MULTILINE)


def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A strategy, such as pgd, a section: training, or a field: attack.step."),
    ],
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
    entries_of_kind = [entry for each in ([kind] if kind else KINDS) for entry in entries(each)]
    sections = {} if kind else SECTIONS
    strategies = [load(entry.kind, entry.name) for entry in entries_of_kind if entry.name == name]
    if not strategies and name not in sections:
        path = _from_its_kind(name)
        if path in KINDS and not kind:
            _print_kind(path)
            return
        if "." in path and not kind:
            _print_field(path)
            return
        raise ConfigError(
            f"'{name}' is not a registered {kind or 'strategy'}" + ("." if kind else " and not a section."),
            remedy=nearest(name, {entry.name for entry in entries_of_kind} | set(sections)),
        )
    if name in sections:
        _print(name, "section of the configuration", sections[name], field_rows(sections[name]))
    for strategy in strategies:
        _print(name, strategy.kind, strategy, field_rows(strategy.Config))


def _from_its_kind(path: str) -> str:
    """Return ``attack.step`` for ``sampler.intervention.attack.step`` and ``intervention.attack.step``."""
    from saei.config.aliases import ALIASES
    from saei.config.registry import KINDS

    first, dot, rest = path.partition(".")
    path = ALIASES.get(first, first) + dot + rest
    for alias, full in ALIASES.items():
        if alias in KINDS and (path == full or path.startswith(f"{full}.")):
            return alias + path.removeprefix(full)
    return path


def _print_kind(kind: str) -> None:
    from saei.config.registry import entries

    names = ", ".join(entry.name for entry in entries(kind))
    say(f"{kind} is a kind of strategy: {names}.")
    say(f"`saei list {kind}` says where each comes from, `saei show NAME` what it does.")


def _print_field(path: str) -> None:
    """Print a field wherever it is: of a section, of a strategy, or of all strategies of a kind that have it.

    Raises:
        ConfigError: If there is no such section, strategy or kind, or none of them has the field.
    """
    from saei.cli.fields import field_rows
    from saei.config.registry import KINDS, entries, load
    from saei.config.run import SECTIONS
    from saei.errors import ConfigError, nearest

    first, _, field = path.partition(".")
    all_entries = [entry for kind in KINDS for entry in entries(kind)]
    configs = [(first, SECTIONS[first])] if first in SECTIONS else []
    configs += [
        (f"{entry.name}  {entry.kind}", load(entry.kind, entry.name).Config)
        for entry in all_entries
        if first == entry.name or (first == entry.kind and first not in SECTIONS)
    ]
    if not configs:
        known = {*SECTIONS, *KINDS, *(entry.name for entry in all_entries)}
        raise ConfigError(f"'{first}' is no section, kind or strategy.", remedy=nearest(first, known))
    rows = {title: field_rows(config) for title, config in configs}
    having = {
        title: [row for row in each if row.path == field or row.path.startswith(f"{field}.")]
        for title, each in rows.items()
    }
    if not any(having.values()):
        known = {row.path for each in rows.values() for row in each}
        raise ConfigError(f"There is no field '{field}' of {first}.", remedy=nearest(field, known))
    for title, fields in having.items():
        if fields:
            say(title)
            _print_fields(fields)


def _print(name: str, what: str, documented: type, rows: Sequence[FieldRow]) -> None:
    from rich.markdown import Markdown
    from rich.text import Text

    console = screen()
    console.print(Text.assemble((printable(name), "bold"), f"  {what}"))
    console.print(Markdown(as_markdown(documented), code_theme="ansi_dark"))
    if rows:
        console.print()
        _print_fields(rows)
    else:
        console.print()


def _print_fields(rows: Sequence[FieldRow]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = screen()
    table = Table("field", "default", "meaning", box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(Text(row.path), Text(row.default), _with_code(row.meaning))
    console.print(table)
    console.print()


def _with_code(text: str) -> Text:
    """Return a text whose words in backticks are styled as in the docstring."""
    from rich.text import Text

    parts = text.split("`")
    return Text.assemble(*((part, "markdown.code" if number % 2 else "") for number, part in enumerate(parts)))


def as_markdown(documented: object) -> str:
    """Return a docstring without the descriptions of its fields, as Markdown.

    reStructuredText's code blocks, roles, links and notes become Markdown's, and Google's sections paragraphs with a
    title. ``Attributes`` is left out: a config's fields are listed apart.
    """
    text = inspect.getdoc(documented) or ""
    text = _DIRECTIVE.sub(lambda match: _fenced(match[2], match[1]), text)
    text = _LITERAL.sub(lambda match: ":\n\n" + _fenced(match[1]), text)
    text = _ADMONITION.sub(lambda match: f"**{match[1].capitalize()}:** {dedent(match[2]).strip()}\n\n", text)
    text = _ROLE.sub(r"`\1`", text)
    text = _LINK.sub(r"[\1](\2)", text)
    text = _SECTION.sub(_section, text)
    return text.strip()


def _fenced(block: str, language: str = "") -> str:
    return f"```{language}\n{dedent(block).strip()}\n```\n\n"


def _section(match: re.Match[str]) -> str:
    """Return a section's title and text; each of its items, if it has any, is one of a list."""
    if match[1] == "Attributes":
        return ""
    body = dedent(match[2]).strip()
    if _ITEM.match(body):
        items = re.split(r"\n(?=\S)", body)
        body = "\n".join("- " + indent(re.sub(r"\n\s*", "\n", item), "  ").strip() for item in items)
    return f"**{match[1]}:**\n\n{body}\n\n"
