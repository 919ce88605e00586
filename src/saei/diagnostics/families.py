"""The table of families: what the library makes of a tiny model of each."""

from __future__ import annotations

from collections.abc import Iterator

from saei.config.run import SamplingConfig
from saei.data.templates import ThinkBoxed
from saei.diagnostics.examination import TOKENS, Examination, examine
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.policy import Policy

HEADINGS = ["family", "pixel inputs of one picture", "canvas", "its way", "gradient off by", "shared prefix", "off by"]


def examine_families() -> Iterator[tuple[str, Examination | None]]:
    """Examine a tiny policy of each family; None where its processor needs a package that is missing."""
    for name, family in FAMILIES.items():
        if family.missing:
            yield name, None
        else:
            policy = Policy(tiny_parts(family), ThinkBoxed(), sampling=SamplingConfig(max_new_tokens=TOKENS))
            yield name, examine(policy)


def family_row(name: str, found: Examination | None) -> list[str]:
    """Return the cells of a family's row."""
    return [name, *([f"needs {', '.join(FAMILIES[name].missing)}", *[""] * 5] if found is None else found.cells)]


def family_table() -> str:
    """Return the table of families in Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(family_row(name, found) for name, found in examine_families())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows).replace("| --- ", "|---").replace("--- |", "---|")
