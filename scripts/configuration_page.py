"""Write the tables of docs/configuration.md anew from the configuration classes; the prose around them stays.

A section or strategy that the page lacks is added behind its kind, with its docstring's first line:
`python scripts/configuration_page.py`, after every change of a field.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from saei.cli.fields import FieldRow, field_rows
from saei.config.registry import KINDS, entries, load
from saei.config.run import SECTIONS, RunConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def main() -> None:
    """Rewrite the page."""
    text = PAGE.read_text(encoding="utf-8")
    top = [row for row in field_rows(RunConfig) if "." not in row.path]
    text = _with_table(text, "At the top", top)
    for name, section in SECTIONS.items():
        text = _with_table(text, f"`{name}`", field_rows(section))
    head, strategies = text.split("\n## Strategies\n")
    introduction, *_ = strategies.split("\n### ")
    old = {part.split("\n")[0]: f"\n### {part}" for part in strategies.split("\n### ")[1:]}
    parts = []
    for kind in KINDS:
        for entry in sorted((e for e in entries(kind) if e.origin == "saei"), key=lambda e: e.name):
            cls = load(kind, entry.name)
            heading = f"{kind} `{entry.name}`"
            summary = (inspect.getdoc(cls) or "").split("\n")[0].replace("``", "`")
            part = old.get(heading, f"\n### {heading}\n\n{summary}\n")
            parts.append(_with_table(part, heading, field_rows(cls.Config)))
    PAGE.write_text(f"{head}\n## Strategies\n{introduction}" + "".join(parts), encoding="utf-8")


def _with_table(text: str, heading: str, rows: list[FieldRow]) -> str:
    """Return the text with the table below a heading replaced, or added at the end of its part."""
    before, rest = text.split(f"\n### {heading}\n", 1)
    end = re.search(r"\n##+ ", rest)
    part, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    lines = ["| field | default | meaning |", "|---|---|---|"]
    lines += [f"| `{row.path}` | `{row.default.replace('|', '/')}` | {row.meaning.replace('|', '/')} |" for row in rows]
    table = "\n".join(lines) + "\n" if rows else ""
    found = re.search(r"\| field \|.*\n(\|.*\n?)+", part)
    if found:
        part = part[: found.start()] + table + part[found.end() :]
    elif rows:
        part = part.rstrip("\n") + f"\n\n{table}"
    return f"{before}\n### {heading}\n{part}{after}"


if __name__ == "__main__":
    main()
