"""Write docs/strategies.md anew: every strategy of saei with its line, its source, its fields and its measured cost.

`python scripts/strategies_page.py`, after a strategy was added or a field or docstring changed. The costs are those of
benchmarks/strategy_cost.json, which `python benchmarks/strategy_cost.py` measures.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path

from saei.cli.fields import field_rows
from saei.config.registry import KINDS, entries, load
from saei.config.strategy import Strategy

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "strategies.md"
COSTS = ROOT / "benchmarks" / "strategy_cost.json"

HEAD = """\
Every strategy that comes with saei, by kind. `saei list` names those that are installed, `saei show NAME` explains one,
and [a strategy of your own](extending/index.md) is used as they are. `scripts/strategies_page.py` writes this page.

The cost is the CPU time of a training step with the strategy, as a multiple of that of plain GRPO, the sampler `clean`,
with the same number of responses. It is left open where a step does not tell it, or where nothing was measured. What
rewards cost is in [Benchmarks](benchmarks.md), since their worker processes are not in a step's time.
"""

_SOURCE = re.compile(r"\s*Source: (.+?)(?:\n\n|\.?$)", re.DOTALL)
_PAPER = re.compile(r"(?:arXiv |https?://arxiv\.org/abs/)(\d{4}\.\d{4,5})")
_ADDRESS = re.compile(r"(?<![(<\w])https?://[^\s,;)]+[^\s,;.)]")


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page's text."""
    measured = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {"setting": "", "ratios": {}}
    parts = [
        "# Strategies\n",
        HEAD,
        f"{measured['setting']}\n",
    ]
    for kind in KINDS:
        costs = measured["ratios"].get(kind, {})
        strategies = [load(kind, entry.name) for entry in entries(kind) if entry.origin == "saei"]
        parts.append(f"## {kind.capitalize()}\n")
        parts.append(summary(strategies, costs))
        parts += [fields(strategy) for strategy in strategies if field_rows(strategy.Config)]
    return "\n".join(parts)


def summary(strategies: list[type[Strategy]], costs: Mapping[str, float]) -> str:
    """Return the table of a kind."""
    lines = ["| name | what it is | source | cost |", "|---|---|---|---|"]
    for strategy in strategies:
        name = strategy.name()
        cost = f"{costs[name]:.2f}" if name in costs else ""
        lines.append(f"| `{name}` | {cell(first_line(strategy))} | {cell(source(strategy))} | {cost} |")
    return "\n".join(lines) + "\n"


def fields(strategy: type[Strategy]) -> str:
    """Return the table of a strategy's fields."""
    lines = [f"### {strategy.kind} `{strategy.name()}`\n", "| field | default | meaning |", "|---|---|---|"]
    lines += [f"| `{row.path}` | `{cell(row.default)}` | {cell(row.meaning)} |" for row in field_rows(strategy.Config)]
    return "\n".join(lines) + "\n"


def first_line(strategy: type[Strategy]) -> str:
    """Return the first line of a docstring, without its source."""
    line = (inspect.getdoc(strategy) or "").split("\n")[0]
    return re.sub(r"\s*Source: .*", "", line).replace("``", "`")


def source(strategy: type[Strategy]) -> str:
    """Return where a docstring says that a strategy comes from: links to papers, or "original"."""
    text = inspect.getdoc(strategy) or ""
    named = _SOURCE.search(text)
    if named:
        words = " ".join(named[1].split()).rstrip(".")
        return _ADDRESS.sub(lambda match: f"<{match[0]}>", _PAPER.sub(lambda match: link(match[1]), words))
    return ", ".join(dict.fromkeys(map(link, _PAPER.findall(text))))


def link(number: str) -> str:
    """Return a link to a paper on arXiv."""
    return f"[arXiv {number}](https://arxiv.org/abs/{number})"


def cell(text: str) -> str:
    """Return a text as it may stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
