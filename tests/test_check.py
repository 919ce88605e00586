"""``saei check``: what a file, a folder or a distribution registers is held to its contract."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import saei.testing
from commands import Saei
from saei.config import registry
from saei.config.registry import KINDS
from saei.config.strategy import StrategyConfig
from saei.interventions.controls import ShuffledSigns
from saei.interventions.surfaces import Pixels
from saei.policy import Policy
from saei.policy.native import Native
from saei.policy.statistics.marks import EndOfSequence
from saei.samplers.clean import Clean
from saei.scaffold import NewPackage, write
from saei.testing import builtin_policy, check_strategy
from saei.testing.kinds import contract_of
from saei.types import View

SELECTORS = """
from typing import Literal
from pydantic import PositiveInt
from saei.config.registry import register
from saei.config.strategy import StrategyConfig
from saei.entropy.selectors.base import Selector
from saei.interventions.base import Strength

class Every(Selector):
    class Config(Selector.Config):
        type: Literal["mine/every"] = "mine/every"
    def select(self, stats, *, progress, generator):
        return self.candidates(stats)

class Padding(Selector):
    class Config(Selector.Config):
        type: Literal["mine/padding"] = "mine/padding"
    def select(self, stats, *, progress, generator):
        return stats.valid_NT | True

class Fails(Strength):
    class Config(StrategyConfig):
        type: Literal["mine/fails"] = "mine/fails"
    def at(self, progress):
        return 1 / 0

class Asserts(Strength):
    class Config(StrategyConfig):
        type: Literal["mine/asserts"] = "mine/asserts"
    def at(self, progress):
        assert progress < 0.5

class Factor(Strength):
    class Config(StrategyConfig):
        type: Literal["mine/factor"] = "mine/factor"
        by: PositiveInt
    def at(self, progress):
        return self.config.by - 2
"""


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers, imports and puts on the path."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(("lab", "saei_file_")):
            del sys.modules[name]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A plugin file that registers none of its classes yet."""
    file = tmp_path / "mine.py"
    file.write_text(SELECTORS)
    return file


def registering(file: Path, *classes: str) -> Path:
    file.write_text(file.read_text() + "\n".join(f"register({name})" for name in classes))
    return file


def test_a_file_that_keeps_its_contracts(saei: Saei, mine: Path) -> None:
    said = saei("check", registering(mine, "Every"))
    assert said.code == 0
    assert re.search(r"selector +mine/every +kept", said.out)
    assert said.err == ""


def test_a_broken_rule_is_named_with_its_strategy(saei: Saei, mine: Path) -> None:
    said = saei("check", registering(mine, "Every", "Padding"))
    assert said.code == 1
    assert re.search(r"selector +mine/every +kept\b.*\n.*mine/padding +broken", said.out)
    assert "mine/padding: the rule is broken that only valid tokens are selected" in said.err


def test_an_error_within_a_strategy_is_named_with_its_line(saei: Saei, mine: Path) -> None:
    said = saei("check", registering(mine, "Fails", "Asserts"))
    assert said.code == 1
    line = SELECTORS[: SELECTORS.index("1 / 0")].count("\n") + 1
    assert f"mine/fails: it raised an error: {mine}, line {line}: ZeroDivisionError" in said.err
    line = SELECTORS[: SELECTORS.index("assert progress")].count("\n") + 1
    assert f"mine/asserts: {mine}, line {line}: AssertionError" in said.err


def test_fields_without_a_default_are_given(saei: Saei, mine: Path) -> None:
    registering(mine, "Factor")
    said = saei("check", mine)
    assert said.code == 0
    assert "mine/factor is not checked: without a default: by; give values with --set mine/factor.by=" in said.out
    assert saei("check", mine, "--set", "mine/factor.by=3").code == 0
    negative = saei("check", mine, "--set", "mine/factor.by=1", "--json")
    assert negative.code == 1
    (row,) = json.loads(negative.out)
    assert (row["kind"], row["name"], row["contract"]) == ("strength", "mine/factor", "broken")
    assert row["why"] == "mine/factor: the rule is broken that a strength is finite and not negative."
    assert saei("check", mine, "--set", "mine/factor.by=0").code == 2
    wrong = saei("check", mine, "--set", "mine/facter.by=3")
    assert wrong.code == 2
    assert "Did you mean 'mine/factor'?" in wrong.err


def test_a_new_package_is_checked_before_it_is_installed(saei: Saei, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    write(NewPackage.of("gate", "labgate/new"), folder)
    said = saei("check", folder)
    assert said.code == 0, said
    assert re.search(r"gate +labgate/new +kept", said.out)


def test_a_change_that_breaks_the_contract(saei: Saei, tmp_path: Path) -> None:
    write(NewPackage.of("strength", "labstrength/new"), tmp_path / "changed")
    file = tmp_path / "changed/src/labstrength/new.py"
    file.write_text(file.read_text().replace("float(progress < self.config.until)", "0.5 - progress"))
    said = saei("check", tmp_path / "changed")
    assert said.code == 1
    assert "labstrength/new: the rule is broken that a strength is finite and not negative" in said.err


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "has none in a group of saei"),
        ('[project.entry-points."saei.gates"]\n"labe/a" = "labe_a:Missing"', "has no attribute 'Missing'"),
        ('[project.entry-points."saei.gates"]\n"labe/b" = "labe_a:Always"', "Config names it 'labe/b'"),
        ('[project.entry-points."saei.guards"]\n"labe/a" = "labe_a:Always"', "has to be a guard"),
        ("[project", "has to be readable"),
    ],
)
def test_a_folder_whose_entry_points_are_wrong(saei: Saei, tmp_path: Path, entry: str, words: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"{entry}\n")
    (tmp_path / "labe_a.py").write_text(
        dedent("""
        from typing import Literal
        from saei.config.strategy import StrategyConfig
        from saei.interventions.gates import Always as Base

        class Always(Base):
            class Config(StrategyConfig):
                type: Literal["labe/a"] = "labe/a"
        """)
    )
    said = saei("check", tmp_path)
    assert said.code == 2
    assert words in said.err


def test_a_distribution_by_its_name(saei: Saei, tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_installed.py").write_text(mine.read_text())
    folder = tmp_path / "lab_installed-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: Lab-Installed\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[saei.selectors]\nmine/padding = lab_installed:Padding\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    said = saei("check", "lab_installed")
    assert said.code == 1
    assert "mine/padding: the rule is broken" in said.err


def test_what_registers_nothing(saei: Saei, mine: Path, tmp_path: Path) -> None:
    for package in (mine, "no-such-package", tmp_path):
        said = saei("check", package)
        assert said.code == 2
        assert "registers none" in said.err
    assert "Did you mean 'saei'?" in saei("check", "seai").err


def test_every_kind_has_a_contract() -> None:
    assert [kind for kind in KINDS if contract_of(kind) is None] == []
    assert contract_of("nothing") is None


@pytest.mark.parametrize("kind", ["sampler", "surface", "control", "decoder", "statistic"])
def test_what_a_contract_needs_of_a_policy_is_given(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "sampler": Clean.Config(n=2),
        "surface": Pixels.Config(),
        "control": ShuffledSigns.Config(),
        "decoder": Native.Config(),
        "statistic": EndOfSequence.Config(),
    }[kind]
    assert config.strategy.kind == kind
    check_strategy(config)
    seen: dict[str, Any] = {}

    def check(subject: StrategyConfig, policy: Policy, views: list[View]) -> None:
        seen.update(subject=subject, policy=policy, views=views)

    monkeypatch.setattr(saei.testing, f"check_{kind}", check)
    check_strategy(config)
    assert seen["subject"] is config
    assert seen["policy"] is builtin_policy()
    assert [len(view.canvases) for view in seen["views"]] == [1, 1, 0]
