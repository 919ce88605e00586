"""``saei new``: packages that keep their contract as they are, for every kind; names and folders that it refuses."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from commands import Saei
from saei.config import registry
from saei.config.registry import KINDS, register
from saei.errors import ConfigError
from saei.scaffold import NewPackage, write
from saei.scaffold.package import LONGEST, LONGEST_NAME, USES

ROOT = Path(__file__).parents[1]
LONG = f"{'p' * (LONGEST - LONGEST_NAME - 1)}/{'longest-name-' + 'n' * (LONGEST_NAME - 13)}"


def ruff(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_there_is_a_package_for_every_kind() -> None:
    assert set(USES) == set(KINDS)


@pytest.mark.slow
def test_every_package_passes_its_own_tests(tmp_path: Path) -> None:
    for kind in KINDS:
        write(NewPackage.of(kind, f"lab-{kind}/new-{kind}"), tmp_path / kind)
    paths = os.pathsep.join(str(tmp_path / kind / "src") for kind in KINDS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.findall(r"^PASSED (\w+)/tests/", done.stdout, re.MULTILINE)
    assert {kind: passed.count(kind) for kind in KINDS} == {kind: 4 if kind == "reward" else 2 for kind in KINDS}


@pytest.mark.parametrize("name", ["a/b", "lab/every-other", LONG, "none", "selector"])
def test_packages_are_clean(name: str, tmp_path: Path) -> None:
    for kind in KINDS:
        write(NewPackage.of(kind, name), tmp_path / kind)
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    selected = ["--extend-select", ",".join(rules["select"]), "--ignore", ",".join([*rules["ignore"], "D103"])]
    convention = ["--config", "lint.pydocstyle.convention='google'"]
    checked = ruff("check", "--no-cache", *selected, *convention, str(tmp_path))
    assert checked.returncode == 0, checked.stdout
    formatted = ruff("format", "--no-cache", "--check", "--diff", str(tmp_path))
    assert formatted.returncode == 0, formatted.stdout


def test_a_command_writes_the_package_and_says_how_to_go_on(
    saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = saei("new", "attack", "lab/fade-out")
    assert said.code == 0
    project = tomllib.loads(Path("lab/pyproject.toml").read_text())["project"]
    assert project["name"] == "lab"
    assert project["entry-points"] == {"saei.attacks": {"lab/fade-out": "lab.fade_out:FadeOut"}}
    assert "class FadeOut(Attack):" in Path("lab/src/lab/fade_out.py").read_text()
    for line in ("saei check ./lab", "pip install ./lab", "saei train --attack lab/fade-out"):
        assert f"  {line}\n" in said.out
    assert "saei train --attack lab/fade-out" in Path("lab/README.md").read_text()
    assert saei("new", "gate", "short-ones", "--into", "deep/folder").code == 0
    assert 'name = "saei-short-ones"' in Path("deep/folder/pyproject.toml").read_text()
    assert Path("deep/folder/src/saei_short_ones/short_ones.py").is_file()


def test_an_existing_folder_is_left_as_it_is(saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab").mkdir()
    said = saei("new", "attack", "lab/fade-out")
    assert said.code == 2
    assert said.err.splitlines() == [
        "A new package gets a new folder.",
        "lab exists.",
        "Give another one with --into.",
    ]
    assert list(Path("lab").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("selectr", "lab/a", "Did you mean 'selector'?"),
        ("selector", "Lab/A", "For example `saei new selector lab/sharp`"),
        ("selector", "lab/a/b", "small letters, digits and hyphens"),
        ("selector", "../a", "small letters, digits and hyphens"),
        ("selector", "lab/a--b", "small letters, digits and hyphens"),
        ("selector", "lab/a\n", "small letters, digits and hyphens"),
        ("selector", "lab/" + "a" * (LONGEST_NAME + 1), "at most 24 characters"),
        ("selector", "a" * 20, "stands twice"),
        ("selector", "lambda/a", "'lambda' is a word of the language"),
        ("selector", "lab/class", "'class' is a word of the language"),
        ("selector", "torch/a", "There is a module 'torch' here already"),
        ("selector", "json/a", "There is a module 'json' here already"),
    ],
)
def test_other_names_are_refused(kind: str, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        NewPackage.of(kind, name)


def test_a_registered_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from saei.entropy.selectors.band import MiddleThird

    monkeypatch.setattr(registry, "_registered", {("selector", "lab/taken"): MiddleThird})
    with pytest.raises(ConfigError, match=r"'lab/taken' is saei\.entropy\.selectors\.band:MiddleThird"):
        NewPackage.of("selector", "lab/taken")
    NewPackage.of("attack", "lab/taken")


SMALL = ("training.prompts_per_step=1", "evaluation.examples=1", "evaluation.probe_examples=1", "evaluation.every=100")


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(USES) - {"statistic"}))
def test_the_command_of_the_readme_trains(
    kind: str, saei: Saei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = NewPackage.of(kind, f"used-{kind}/new")
    write(package, tmp_path / kind)
    monkeypatch.syspath_prepend(str(tmp_path / kind / "src"))
    monkeypatch.setattr(registry, "_registered", {})
    register(getattr(importlib.import_module(f"{package.module}.{package.file}"), package.class_name))
    settings = [word for setting in (*SMALL, f"output.root={tmp_path / 'runs'}") for word in ("--set", setting)]
    said = saei(*shlex.split(package.use)[1:], "--steps", 1, "--plain", *settings)
    assert said.code == 0, said.err
    (run,) = (tmp_path / "runs").iterdir()
    assert f"type: {package.name}" in (run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("selector", "lab/every-other", "EveryOther"),
        ("selector", "lab/top-2", "Top2"),
        ("selector", "lab/selector", "SelectorSelector"),  # the base class
        ("attack", "lab/frac", "FracAttack"),  # the type of a field
        ("guard", "lab/grade", "GradeGuard"),  # what the test imports
        ("strength", "lab/true", "TrueStrength"),  # a word of the language
        ("gate", "lab/frac", "Frac"),
    ],
)
def test_a_class_has_no_name_that_its_files_use(kind: str, name: str, expected: str) -> None:
    assert NewPackage.of(kind, name).class_name == expected
