"""The README's Python example runs as it stands, but for its size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(code)


def test_example_is_short() -> None:
    assert len(example().splitlines()) < 25


def test_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = "evaluation={'examples': 2, 'responses': 1, 'probe_examples': 2, 'probe_responses': 2}, output="
    code = example().replace('"steps": 80, "prompts_per_step": 8', '"steps": 1, "prompts_per_step": 2')
    assert 'steps": 1,' in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("output=", small), "README.md", "exec"), {"__name__": "__main__"})
    written = Path(capsys.readouterr().out.strip())
    assert len(written.read_text(encoding="utf-8").splitlines()) == 2


def test_it_shows_pictures_before_it_explains_and_its_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert {"docs/intervention.svg", "docs/demo.svg", "docs/view.md"} <= set(links)
    assert text.index("pip install") < text.index("docs/intervention.svg") < text.index("docs/demo.svg") < 1500
    for link in links:
        assert link.startswith("https://") or (README.parent / link).exists(), link
