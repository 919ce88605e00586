"""The page of papers: its settings are configurations that build, and every paper that the code cites is on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from saei.config.overrides import load_config, nested
from saei.config.registry import KINDS, entries, load
from saei.config.run import RunConfig, dump, validate
from saei.config.yaml import read_yaml
from saei.recipes.values import METHODS, SPECIFIC

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ARXIV = re.compile(r"(?:arXiv |arxiv\.org/abs/)(\d{4}\.\d{5})")

SETTINGS = {
    section.partition("\n")[0]: block[1]
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    for block in [BLOCK.search(section)]
    if block
}
"""The settings of each method, by its heading."""


def config_of(method: str, folder: Path) -> RunConfig:
    file = folder / "method.yaml"
    file.write_text(SETTINGS[method], encoding="utf-8")
    return load_config(file=file)


def test_every_block_stands_below_a_method() -> None:
    assert len(SETTINGS) == len(BLOCK.findall(PAGE)) > 12


@pytest.mark.parametrize("method", SETTINGS)
def test_settings_build(method: str, tmp_path: Path) -> None:
    config = config_of(method, tmp_path)
    assert validate(dump(config)) == config
    for part in (config.sampler, config.objective, config.reward, config.template):
        part.build()


@pytest.mark.parametrize("method", SETTINGS)
def test_settings_are_those_of_the_run(method: str, tmp_path: Path) -> None:
    """A value that the page gives is that of the resolved configuration, fractions and names included."""
    config = dump(config_of(method, tmp_path))
    file = tmp_path / "method.yaml"
    for section, value in read_yaml(file).items():
        assert within(nested(section, value), config), section


def within(part: Any, whole: Any) -> bool:
    """Return whether plain data has every value of a part; a strategy's name stands for its type."""
    if isinstance(part, str) and isinstance(whole, dict):
        return bool(whole["type"] == part)
    if type(part) is int and isinstance(whole, str):  # a whole number for a fraction, whose dump is a text
        return Fraction(part) == Fraction(whole)
    if isinstance(part, str) and isinstance(whole, str) and "/" in part:
        return Fraction(part) == Fraction(whole)
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and within(part[key], whole[key]) for key in part)
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return bool(part == whole)


def test_the_page_and_the_recipes_agree(tmp_path: Path) -> None:
    """What a recipe sets for a method, whoever's it is, the page sets too."""
    noisy = {value.path: value for value in (*METHODS["noisyrollout"].values, *SPECIFIC["geometry3k", "noisyrollout"])}
    for method, values in (("SaEI", METHODS["saei"].values), ("NoisyRollout", noisy.values())):
        config = dump(config_of(method, tmp_path))
        for value in values:
            assert within(nested(value.path, value.value), config), (method, value.path)


def cited() -> Iterator[tuple[str, str]]:
    """Return who cites which paper: the docstrings of all strategies that come with the library."""
    for kind in KINDS:
        for entry in entries(kind):
            if entry.origin == "saei":
                module = inspect.getmodule(load(kind, entry.name))
                assert module is not None
                for number in ARXIV.findall(inspect.getsource(module)):
                    yield f"{kind} {entry.name}", number


def test_every_cited_paper_is_on_the_page() -> None:
    on_page = set(ARXIV.findall(PAGE))
    assert {who: number for who, number in cited() if number not in on_page} == {}


def test_every_strategy_is_from_a_paper_or_original() -> None:
    """A name on the page is one that is registered."""
    names = {entry.name for kind in KINDS for entry in entries(kind)}
    original = PAGE.partition("## Original parts")[2]
    assert {name for name in re.findall(r"`([a-z-]+)`", original) if "." not in name} <= names
