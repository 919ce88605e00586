"""Help pages, completion, and what ``saei show`` makes of docstrings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Said
from saei.cli.show import as_markdown

ROOT = Path(__file__).parents[1]
COMMANDS = (
    *("", "init", "train", "eval", "list", "show", "new", "check", "schema", "demo", "bench", "doctor", "build-tiny"),
    *("data", "data check", "runs", "plot", "ask", "inspect", "export"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_type_where_there_is_no_value(saei: Callable[..., Said], command: str) -> None:
    said = saei(*command.split(), "--help")
    assert said.code == 0
    assert re.search(r"--help +│? *Show this message", said.out)
    assert "<bool>" not in said.out


def test_completion_is_installed_and_completes(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/bash"}
    saei = [str(Path(sys.executable).with_name("saei"))]
    # The shell is the one that the command runs in, so that the test brings its own.
    install = ["bash", "-c", f"{saei[0]} --install-completion; exit $?"]
    done = subprocess.run(install, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (script,) = tmp_path.rglob("saei.sh")
    assert "complete_bash" in script.read_text()
    asked = {"_SAEI_COMPLETE": "complete_bash", "COMP_WORDS": "saei tr", "COMP_CWORD": "1"}
    assert subprocess.run(saei, env=env | asked, capture_output=True, text=True, check=True).stdout.strip() == "train"
    asked["COMP_WORDS"], asked["COMP_CWORD"] = "saei train --sel", "2"
    assert "--selector" in subprocess.run(saei, env=env | asked, capture_output=True, text=True, check=True).stdout


def test_show_renders_what_a_docstring_marks_up(saei: Callable[..., Said]) -> None:
    said = saei("show", "function").out
    assert "def reward(example: Example" in said
    assert not re.search(r"code-block|```|``|`|::", said.replace("`./file.py:function`", ""))
    assert r"\boxed{…}" in saei("show", "think-boxed").out  # no escape
    assert "<think>…</think>" in saei("show", "think-boxed").out  # no HTML


class Rest:
    """Takes ``count`` tokens, see :class:`~mine.Selector` and `the paper <https://example.org>`_.

    .. code-block:: python

        mine(1)
        if x:
            mine(2)

    For example::

        other()

    .. note:: It is slow.

    Args:
        first: One
            of two.
        second (int): The other.

    Attributes:
        count: Is listed apart.
    """


def test_docstrings_of_other_styles_become_markdown() -> None:
    text = as_markdown(Rest)
    for part in (
        "Takes ``count`` tokens, see `mine.Selector` and [the paper](https://example.org).",
        "```python\nmine(1)\nif x:\n    mine(2)\n```",
        "For example:\n\n```\nother()\n```",
        "**Note:** It is slow.",
        "**Args:**\n\n- first: One\n  of two.\n- second (int): The other.",
    ):
        assert part in text
    assert "Attributes" not in text
    assert "listed apart" not in text


def test_every_table_of_the_documentation_stands_by_itself_and_is_square() -> None:
    """Markdown takes a table for text if it follows text, and cuts rows of more cells."""
    seen = 0
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        before = ""
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("|"):
                cells = len(re.findall(r"(?<!\\)\|", line))
                if not before.startswith("|"):
                    assert before == "", f"{page}:{number} follows text"
                    width, seen = cells, seen + 1
                assert cells == width, f"{page}:{number} has {cells - 1} cells instead of {width - 1}"
            before = line
    assert seen > 60
