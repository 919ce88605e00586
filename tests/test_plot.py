"""`saei plot`: runs of one method are one curve, and its numbers are means and intervals worked by hand."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from commands import Saei
from saei.config.run import validate
from saei.report.compare import STEERED
from saei.report.run_groups import RunGroup, group_runs, table
from saei.report.run_list import find_runs, summarise
from saei.runtime.run_dir import RunDir


def make(
    root: Path, name: str, accuracies: dict[int, float], *, budget: int = 48, more: Any = (), **sections: Any
) -> None:
    """Write a run with the given accuracies by step, without training it."""
    run = RunDir.create(validate({"output": {"root": str(root), "name": name}, **sections}))
    for step, accuracy in accuracies.items():
        budgets = {"train/budget": float(step * budget)} if step else {}
        values = {"eval/accuracy": accuracy, "probe/entropy": 1 - accuracy, "probe/zero_variance": accuracy / 2}
        run.append({"step": step, **values, **budgets, **dict(more)})
    run.lock.release()


def groups(root: Path, *apart: str) -> dict[str, RunGroup]:
    found = group_runs([summarise(path, name) for path, name in find_runs([root])], apart)
    return {group.label: group for group in found}


SAEI = {"sampler": {"type": "mixed", "intervention": {"attack": {"type": "pgd", "step": "4/255"}}}}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    for seed, accuracies in enumerate(({0: 0.2, 4: 0.5, 8: 0.6}, {0: 0.4, 4: 0.7}, {0: 0.3, 4: 0.9, 8: 0.7})):
        make(tmp_path, f"plain-{seed}", accuracies, seed=seed, sampler="clean")
        make(tmp_path, f"saei-{seed}", accuracies, seed=seed, budget=96, **SAEI)
    make(tmp_path, "weak", {0: 0.1, 4: 0.1}, sampler="mixed")
    return tmp_path


def test_seeds_are_one_group_and_labels_say_what_differs(several: Path) -> None:
    assert {label: len(group.curves) for label, group in groups(several).items()} == {
        "clean": 3,
        "mixed, attack.step=4/255": 3,
        "mixed, attack.step=2/255": 1,
    }
    assert len(groups(several, "seed")) == 7


def test_mean_and_interval_are_over_runs_at_their_common_steps(several: Path) -> None:
    points = groups(several)["clean"].points
    assert [point.step for point in points] == [0, 4]
    values = [0.5, 0.7, 0.9]
    interval = points[1].values["eval/accuracy"]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.7, low, high))
    assert [point.budget for point in points] == [0, 192]
    assert [point.budget for point in groups(several)["mixed, attack.step=4/255"].points] == [0, 384]


def test_several_bases_are_the_unit_each_the_mean_of_its_runs(tmp_path: Path) -> None:
    for name, base, accuracy in (("a", "one", 0.2), ("b", "one", 0.4), ("c", "two", 0.9)):
        make(tmp_path, name, {0: accuracy}, seed=ord(name), model={"path": base})
    (group,) = groups(tmp_path).values()
    interval = group.points[0].values["eval/accuracy"]
    low, high = stats.t.interval(0.95, 1, loc=0.6, scale=stats.sem([0.3, 0.9]))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.6, low, high))
    assert group.title == "mixed (2 bases, 3 runs)"
    assert {group.label for group in groups(tmp_path, "model.path").values()} == {"model.path=one", "model.path=two"}


def test_a_run_whose_entropy_is_steered_is_labelled(tmp_path: Path) -> None:
    make(tmp_path, "a", {0: 0.2}, more={"control/entropy": 0.3})
    assert list(groups(tmp_path)) == [f"mixed ({STEERED})"]
    make(tmp_path, "b", {0: 0.2}, sampler="clean")
    make(tmp_path, "c", {2: 0.2}, more={"train/entropy_steered": 1.0}, sampler="branch")
    assert [STEERED in label for label in sorted(groups(tmp_path))] == [True, False, True]  # branch, clean, mixed


def test_the_table_has_every_mean_and_opens_no_formula(tmp_path: Path) -> None:
    make(tmp_path, "a", {0: 0.25, 2: 0.5})
    make(tmp_path, "b", {0: 0.25, 2: 0.5}, task={"type": "bars", "level": 1})
    rows = list(csv.DictReader(io.StringIO(table(list(groups(tmp_path).values())))))
    assert len(rows) == 2 * 2 * 3
    assert rows[4] == {
        "runs": "task.level=2", "step": "2", "sampled_responses": "96", "metric": "eval/accuracy",
        "mean": "0.5", "low": "", "high": "", "of": "1",
    }  # fmt: skip
    assert (
        table([RunGroup("=1+1", ("x",), groups(tmp_path)["task.level=1"].curves)]).splitlines()[1].startswith("'=1+1")
    )


def test_pictures_and_table_are_written(several: Path, tmp_path: Path, saei: Saei) -> None:
    files = [tmp_path / f"curves{suffix}" for suffix in (".png", ".svg", ".csv")]
    said = saei("plot", several, "--title", "a $_{b}$ <i>", *(word for file in files for word in ("-o", file)))
    assert said.code == 0
    assert "clean (3 runs)" in said.out
    assert "0.300 → 0.700" in said.out
    assert len(np.unique(np.asarray(Image.open(files[0]).convert("RGB")).reshape(-1, 3), axis=0)) > 50
    text = "".join(xml.etree.ElementTree.parse(files[1]).getroot().itertext())
    assert "sampled responses" in text
    assert "mixed, attack.step=4/255 (3 runs)" in text
    before = files[1].read_bytes()
    saei("plot", several, "--title", "a $_{b}$ <i>", "-o", files[1])
    assert files[1].read_bytes() == before
    assert files[2].read_text().count("\n") == 1 + 3 * (2 + 2 + 2)


def test_what_cannot_be_drawn_is_refused(several: Path, tmp_path: Path, saei: Saei) -> None:
    empty = RunDir.create(validate({"output": {"root": str(tmp_path / "b"), "name": "empty"}}))
    empty.lock.release()
    for arguments, words in (
        ((several, "-o", tmp_path / "x.gif"), "End its name in one of .png"),
        ((several, "--where", "state=running"), "meets the conditions"),
        ((empty.path,), "needs a run that was evaluated"),
        ((several, "-o", tmp_path / "no" / "x.png"), "No such file"),
    ):
        said = saei("plot", *arguments)
        assert (said.code, words in said.err) == (2, True), said
    said = saei("plot", several, "-o", tmp_path / "x.png")
    assert (said.code, "b/empty is left out" in said.err) == (0, True)
