"""The pages of the studies that come with saei say what file, ledger and records say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from saei.studies.catalogue import shipped

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "studies"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("studies_pages")


def test_the_pages_are_up_to_date(script: Any) -> None:
    outcomes = {name: script.outcome(name, execution) for name, execution in script.executions().items()}
    written = {name: (FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in shipped()}
    assert script.pages(outcomes) == written, "Run `python scripts/studies_pages.py`."
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    for name in ("studies", "headlines"):
        assert index.count(f"<!-- {name} -->") == index.count(f"<!-- end of {name} -->") == 1
    assert script.index(index, outcomes) == index, "Run `python scripts/studies_pages.py`."


def test_what_was_not_run_says_so() -> None:
    for name in shipped():
        text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
        assert ("**Verdict.** Not run." in text) == (not (FOLDER / name / "runs").is_dir())
