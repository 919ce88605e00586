"""The examples of the documentation are complete plugin files, and they run."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from saei.config import registry
from saei.config.registry import KINDS, entries, load, load_plugin

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs" / "extending").glob("*.md") if page.stem != "index")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code_of(page: Path) -> str:
    """Return the page's Python blocks as one file, each on the lines that it has in the page."""
    text = page.read_text()
    code = ""
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code += "\n" * (line - code.count("\n")) + block[1]
    return code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_example_runs_as_a_plugin_file(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    plugin = tmp_path / f"{page.stem}.py"
    plugin.write_text(code_of(page))
    load_plugin(str(plugin))
    (entry,) = [entry for entry in entries(page.stem) if entry.name.startswith("mine/")]
    assert entry.name in page.read_text().split("```bash")[1]
    strategy = load(page.stem, entry.name)()
    assert strategy.Config.model_validate(strategy.config.model_dump(mode="json")) == strategy.config


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_what_examples_import_exists(page: Path) -> None:
    for node in ast.walk(ast.parse(code_of(page))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for name in names:
            pytest.importorskip(name.partition(".")[0])  # an extra
            module = import_module(name)
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(module, alias.name) for alias in node.names), (name, ast.unparse(node))


def test_every_kind_has_a_page() -> None:
    assert {page.stem for page in PAGES} == set(KINDS)
