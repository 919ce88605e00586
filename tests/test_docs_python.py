"""The page about Python: its blocks are one program, and it runs."""

import re
from pathlib import Path

import pandas
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = ""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1))
        code += "\n" * (line - code.count("\n")) + block[1]  # an error names the page's line
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    steps = [line.partition(" of ")[0] for line in out.splitlines() if line.startswith("after step")]
    assert steps == ["after step 0", "after step 1", "after step 2"]
    assert isinstance(names["accuracy"], pandas.Series)
