"""What mutation testing changes and which tests it runs are named by hand: nothing may be forgotten there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("entropy", "attacks", "objectives")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
IMPORT = re.compile(rf"^from saei\.({'|'.join(PACKAGES)})\.", re.MULTILINE)


def test_what_is_mutated_exists() -> None:
    for pattern in SETTINGS["only_mutate"]:
        assert list(ROOT.glob(pattern)), pattern
    assert {f"src/saei/{package}/*" for package in PACKAGES} <= set(SETTINGS["only_mutate"])


def test_the_tests_that_notice_exist() -> None:
    selected = SETTINGS["pytest_add_cli_args_test_selection"]
    assert selected == sorted(selected)
    for file in selected:
        assert (ROOT / file).is_file(), file


def test_every_test_file_about_the_mutated_packages_alone_is_run() -> None:
    """Those that need a policy or an engine to reach the packages are left to the other tests' time."""
    selected = set(SETTINGS["pytest_add_cli_args_test_selection"])
    for path in (ROOT / "tests").glob("test_*.py"):
        text = path.read_text()
        if IMPORT.search(text) and not re.search(
            r"^from saei\.(engine|policy|cli|builtin|interventions)", text, re.MULTILINE
        ):
            assert f"tests/{path.name}" in selected
