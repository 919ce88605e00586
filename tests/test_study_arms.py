"""`saei plot --by arm`: a study's arms as curves over bases, and nothing of them before all runs have ended."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from commands import Saei
from saei.studies.execution import Execution
from saei.studies.plan import StudyRun
from study_records import record_runs
from test_study import opened

GAIN = {("GRPO", "base 0"): 0.1, ("GRPO", "base 1"): 0.3, ("SaEI", "base 0"): 0.4, ("SaEI", "base 1"): 0.5}


def learning(run: StudyRun, step: int) -> dict[str, Any]:
    """Accuracy from .2 up by the arm's gain on this base, and by a hundredth more with the second seed."""
    gain = GAIN[run.arm, run.base.label] + 0.02 * run.repeat
    budget = {"train/budget": 24.0 * step} if step else {}
    return {"eval/accuracy": 0.2 + gain * step / 4, "probe/entropy": 1 - gain * step / 4, **budget}


def words(execution: Execution, folder: Path) -> tuple[Any, ...]:
    return execution.read.file, "--studies", folder / "runs", "--keep", folder / "kept"


def test_arms_are_curves_over_bases_worked_by_hand(tmp_path: Path, saei: Saei) -> None:
    execution = opened(tmp_path)
    record_runs(execution, tmp_path / "trained", learning, steps=(0, 2, 4))
    file = tmp_path / "arms.csv"
    said = saei("plot", *words(execution, tmp_path), "--by", "arm", "-o", file, "-o", tmp_path / "arms.png")
    assert said.code == 0, said
    assert "GRPO (2 bases, 4" in said.out
    rows = [row for row in csv.DictReader(file.open()) if row["metric"] == "eval/accuracy" and row["step"] == "4"]
    assert [row["runs"] for row in rows] == ["GRPO (2 bases, 4 runs)", "SaEI (2 bases, 4 runs)"]
    # The base is the unit: two seeds of each, whose mean is a hundredth above the first.
    for row, of_bases in zip(rows, ((0.31, 0.51), (0.61, 0.71)), strict=True):
        low, high = stats.t.interval(0.95, 1, loc=sum(of_bases) / 2, scale=stats.sem(of_bases))
        assert [float(row[name]) for name in ("mean", "low", "high")] == pytest.approx(
            [sum(of_bases) / 2, low, high], abs=1e-5
        )
        assert row["of"] == "2"


def test_nothing_is_drawn_before_all_runs_have_ended(tmp_path: Path, saei: Saei) -> None:
    execution = opened(tmp_path)
    record_runs(execution, tmp_path / "trained", learning, steps=(0, 4), most=7)
    file = tmp_path / "arms.csv"
    said = saei("plot", *words(execution, tmp_path), "--by", "arm", "-o", file)
    assert said.code == 2
    assert "Of 8 runs of 'mine' 7 are recorded" in said.err
    assert not file.exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--by", "arm", "--by-base"), "Some of them are chosen"),
        (("--by", "arm", "another"), "Got 2 places"),
        (("--quick",), "What is shown is no study"),
        (("--by", "seed"), "'arm'"),
    ],
)
def test_what_goes_with_arms(tmp_path: Path, saei: Saei, more: tuple[str, ...], told: str) -> None:
    execution = opened(tmp_path)
    said = saei("plot", execution.read.file, *more)
    assert said.code == 2
    assert told in said.err
