"""The walkthrough's blocks are one program, and it runs; the files that it names exist."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "saei"
PAGE = Path(__file__).parents[1] / "docs" / "walkthrough.md"


def test_it_runs_from_file_to_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = ""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1))
        code += "\n" * (line - code.count("\n")) + block[1]  # an error names the page's line
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, str(PAGE), "exec"), names)
    assert "metrics" in names
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_files_that_it_names_exist() -> None:
    words = re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", PAGE.read_text(encoding="utf-8"))
    assert len(words) > 20
    assert [word for word in words if not (PACKAGE / word).exists()] == []
