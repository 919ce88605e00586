"""The examples of the documentation are complete plugin files, and they run."""

import ast
import re
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

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


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects, without making them."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def test_the_menu_is_in_groups_and_has_every_page() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"]
    assert [next(iter(entry)) for entry in nav] == ["Start", "Use", "Understand", "Extend", "Measure", "API reference"]
    listed = [page for entry in nav for part in entry.values() for page in _pages(part)]
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md"))


def _pages(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    assert isinstance(part, list)
    return [page for entry in part for inner in entry.values() for page in _pages(inner)]


def test_the_start_page_shows_before_it_tells() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    install, picture, curves, words = (
        text.index(part) for part in ("pip install", "(intervention.svg)", "(demo.svg)", "## What it is")
    )
    assert install < picture < curves < words
    assert "(view.md)" in text


@pytest.mark.parametrize("name", ["intervention", "demo"])
def test_pictures_follow_the_theme_load_nothing_and_are_read_on_a_phone(name: str) -> None:
    """A phone of 390 px leaves 358 to a picture; text below 9 px there is not read."""
    root = ElementTree.parse(ROOT / "docs" / f"{name}.svg").getroot()
    width = float(root.attrib["viewBox"].split()[2])
    sizes = [float(each.attrib["font-size"]) for each in root.iter() if "font-size" in each.attrib]
    assert min(sizes) * 358 / width >= 9
    style = next(each.text or "" for each in root.iter() if each.tag.endswith("style"))
    assert "prefers-color-scheme: dark" in style
    links = [value for each in root.iter() for key, value in each.attrib.items() if key.endswith("href")]
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert len(links) == (3 if name == "intervention" else 0)
    assert root.attrib["aria-label"]
