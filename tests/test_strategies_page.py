"""The page of all strategies says what the code says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Literal

import pytest

from saei.config.registry import KINDS, entries, load
from saei.config.strategy import StrategyConfig
from saei.interventions.base import Strength

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("strategies_page")


def test_the_page_is_up_to_date(script: Any) -> None:
    assert script.page() == PAGE, "Run `python scripts/strategies_page.py`."


@pytest.mark.parametrize("kind", KINDS)
def test_every_strategy_has_a_row_and_its_fields(kind: str) -> None:
    part = PAGE.split(f"\n## {kind.capitalize()}\n")[1].split("\n## ")[0]
    for entry in entries(kind):
        if entry.origin != "saei":
            continue
        assert f"\n| `{entry.name}` | " in part
        fields = set(load(kind, entry.name).Config.model_fields) - {"type"}
        section = part.partition(f"\n### {kind} `{entry.name}`\n")[2].split("\n### ")[0]
        assert all(f"\n| `{field}" in section for field in fields)


def test_measured_costs_are_of_strategies_that_exist_and_stand_in_the_page() -> None:
    ratios = json.loads((ROOT / "benchmarks" / "strategy_cost.json").read_text())["ratios"]
    assert ratios["sampler"]["mixed"] > ratios["sampler"]["clean"] > 0
    for kind, costs in ratios.items():
        assert set(costs) <= {entry.name for entry in entries(kind)}
        part = PAGE.split(f"\n## {kind.capitalize()}\n")[1].split("\n### ")[0]
        for name, cost in costs.items():
            (row,) = [line for line in part.splitlines() if line.startswith(f"| `{name}` ")]
            assert row.endswith(f"| {cost:.2f} |")


class Named(Strength):
    """A ``line`` of two. Source: the note by Doe, https://example.org/a.

    More of it, arXiv 1234.56789.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            by: A | or b.
        """

        type: Literal["test/named"] = "test/named"
        by: float = 1.0

    def at(self, progress: float) -> float:
        return self.config.by


class Papers(Named):
    """As in two papers (arXiv 1234.56789).

    The second is https://arxiv.org/abs/2345.67890, and arXiv 1234.56789 says so.
    """


def test_rows_by_hand(script: Any) -> None:
    summary = script.summary([Named], {"test/named": 1.234})
    row = "| `test/named` | A `line` of two. | the note by Doe, <https://example.org/a> | 1.23 |"
    assert summary.splitlines()[2:] == [row]
    assert script.fields(Named).splitlines()[-1] == "| `by` | `1.0` | A \\| or b. |"
    papers = (
        "[arXiv 1234.56789](https://arxiv.org/abs/1234.56789), [arXiv 2345.67890](https://arxiv.org/abs/2345.67890)"
    )
    assert script.source(Papers) == papers
    assert script.first_line(Papers) == "As in two papers (arXiv 1234.56789)."
