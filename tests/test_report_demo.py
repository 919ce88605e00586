"""The demonstration's picture shows each run's curves, the views and what was answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest

from saei.report.demo import ACCURACY, ENTROPY, STEPS, Story, draw, escapes, rows


def run(folder: Path, answer: str, *, pictures: bool) -> Path:
    (folder / "images").mkdir(parents=True)
    points = [
        {"step": 0, "eval/accuracy": 0.2, "probe/entropy": 0.4},
        {"step": 1, "train/reward": 0.1},
        {"step": 2, "eval/accuracy": 0.9, "probe/entropy": None, "probe/strategy/steps": 0.75},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    common = {"question": "How many?", "answer": "3", "reward": 1.0, "entropy": 0.5}
    kept = [
        {**common, "step": step, "example": example, "origin": origin, "text": f"{answer} {step}"}
        for step, example, origin in ((1, "a", "clean"), (2, "b", "clean"), (2, "b", "adversarial"), (2, "c", "clean"))
    ]
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


def seeds(root: Path, label: str, *accuracies: float | None) -> tuple[tuple[str, Path], ...]:
    """Runs of one arm that end at these accuracies."""
    runs = []
    for number, accuracy in enumerate(accuracies):
        folder = run(root / f"{label}-{number}", f"{label} {number}", pictures=number == 0)
        first = {"step": 0, "eval/accuracy": 0.2, "probe/entropy": 0.4, "probe/strategy/steps": 0.0}
        last = {"step": 20, "eval/accuracy": accuracy, "probe/entropy": 0.2, "probe/strategy/steps": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(last) + "\n")
        runs.append((label, folder))
    return tuple(runs)


def test_seeds_of_an_arm_are_drawn_thin_beside_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: (drawn.append(self), Path(file).touch()))
    runs = (*seeds(tmp_path, "GRPO", 0.3, 0.9, 0.3), *seeds(tmp_path, "SaEI", 0.75, 0.7, None))
    story = Story("title", "caption", (ACCURACY, ENTROPY, STEPS), runs)
    draw([story], tmp_path / "x.png")
    example, panels = drawn[0].subfigs[0].subfigs
    lines = panels.axes[0].lines
    assert [float(line.get_linewidth()) > 2 for line in lines] == [False, False, False, True] * 2
    assert list(lines[3].get_ydata()) == pytest.approx([0.2, 0.5])  # (.3 + .9 + .3) / 3
    assert lines[7].get_ydata()[1] is None or lines[7].get_ydata()[1] != lines[7].get_ydata()[1]  # no mean of none
    assert [text.get_text() for text in panels.axes[0].get_legend().get_texts()] == [
        "GRPO, mean of 3",
        "SaEI, mean of 3",
    ]
    said = example.subfigs[1].texts[0].get_text()
    assert ("GRPO 0 2" in said, "SaEI 0 2" in said) == (True, True)
    assert "GRPO 1 2" not in said  # one run of each arm speaks


def test_runs_that_escaped_are_counted_at_the_last_step_with_exact_intervals(tmp_path: Path) -> None:
    runs = (*seeds(tmp_path, "GRPO", 0.3, 0.9, 0.3), *seeds(tmp_path, "SaEI", 0.75, 0.7, None))
    story = Story("title", "caption", (ACCURACY,), runs)
    # Clopper and Pearson, one of three: the 2.5 % points of Beta(1, 3) and Beta(2, 2).
    low, high = binomtest(1, 3).proportion_ci(method="exact")
    assert escapes(story) == [("GRPO", "1 of 3", f"{low:.2f} to {high:.2f}"), ("SaEI", "1 of 3", "0.01 to 0.91")]
    assert [row[0] for row in rows(story)] == [f"{arm}, run {n}" for arm in ("GRPO", "SaEI") for n in (1, 2, 3)]
