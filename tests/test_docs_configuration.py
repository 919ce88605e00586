"""The page of all fields tells what the configuration classes say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from saei.cli.fields import field_rows
from saei.config.aliases import ALIASES
from saei.config.registry import KINDS, entries, load
from saei.config.run import SECTIONS, RunConfig

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
STRATEGIES = [(entry.kind, entry.name) for kind in KINDS for entry in entries(kind) if entry.origin == "saei"]


def documented(heading: str) -> set[tuple[str, ...]]:
    """Return the cells of the tables below a heading."""
    part = PAGE.split(f"\n### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = re.findall(r"^\| `(.*?)` \| `(.*?)` \| (.*?) \|$", part, re.MULTILINE)
    return {tuple(row) for row in rows}


def expected(section: type[BaseModel], *, own: bool = False) -> set[tuple[str, ...]]:
    rows = field_rows(section)
    return {tuple(cell.replace("|", "/") for cell in row) for row in rows if not (own and "." in row.path)}


def test_top_level_fields() -> None:
    assert documented("At the top") == expected(RunConfig, own=True)


@pytest.mark.parametrize("name", SECTIONS)
def test_sections(name: str) -> None:
    assert documented(f"`{name}`") == expected(SECTIONS[name]) != set()


@pytest.mark.parametrize(("kind", "name"), STRATEGIES)
def test_strategies(kind: str, name: str) -> None:
    assert documented(f"{kind} `{name}`") == expected(load(kind, name).Config)


def test_every_field_says_what_it_means() -> None:
    configs = [RunConfig, *(load(kind, name).Config for kind, name in STRATEGIES)]
    assert [row.path for config in configs for row in field_rows(config) if not row.meaning] == []


def test_aliases() -> None:
    for alias, path in ALIASES.items():
        assert f"| `{alias}` | `{path}` |" in PAGE
