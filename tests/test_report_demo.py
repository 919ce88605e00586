"""The demonstration's picture shows each run's curves, the views and what was answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from saei.report.demo import ACCURACY, ENTROPY, STEPS, Story, draw, rows


def run(folder: Path, answer: str, *, pictures: bool) -> Path:
    (folder / "images").mkdir(parents=True)
    points = [
        {"step": 0, "eval/accuracy": 0.2, "probe/entropy": 0.4},
        {"step": 1, "train/reward": 0.1},
        {"step": 2, "eval/accuracy": 0.9, "probe/entropy": None, "probe/strategy/steps": 0.75},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    kept = [{"step": step, "question": "How many?", "answer": "3", "text": f"{answer} {step}"} for step in (1, 2, 2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    for name in ("1-0-a-0-clean", "2-0-b-1-x-0-clean", "2-0-b-1-x-1-adversarial", "2-1-c-0-clean") if pictures else ():
        step, rest = name.split("-", 1)
        Image.new("RGB", (4, 4)).save(folder / "images" / f"step-{int(step):06d}-{rest}-0.png")
    return folder


def test_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: (drawn.append(self), Path(file).touch()))
    one, other = run(tmp_path / "one", "first", pictures=False), run(tmp_path / "other", "second", pictures=True)
    story = Story("title", "caption", (ACCURACY, ENTROPY, STEPS), (("GRPO", one), ("SaEI", other)))
    draw([story, story], tmp_path / "x.png")
    (figure,) = drawn
    row = figure.subfigs[0]
    example, panels = row.subfigs
    assert [axis.get_title() for axis in panels.axes] == [name for _, name, _ in story.panels]
    assert [list(line.get_ydata()) for line in panels.axes[2].lines] == [[0.0, 0.75]] * 2
    views, text = example.subfigs
    assert [axis.get_title() for axis in views.axes] == ["clean", "adversarial"]  # of the last step's first group
    said = text.texts[0].get_text()
    assert "How many?" in said
    assert "first 2" in said
    assert "second 2" in said
    assert rows(story)[0] == ("GRPO", "0.200 → 0.900", "0.400 → none", "0.000 → 0.750")
