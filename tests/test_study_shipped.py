"""The studies that come with saei: each can be planned, shares runs where arms are the same, and runs with --quick."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from commands import Saei
from saei.builtin import COUPLINGS
from saei.studies.catalogue import shipped
from saei.studies.execution import Execution, places_of
from saei.studies.outcome import outcome_of
from saei.studies.plan import MODEL_RECIPES, plan_runs
from saei.studies.process import main
from saei.studies.scheduler import State
from saei.studies.study import RECIPES, Study, read

ASKED = {
    "collapse", "components-lock-in", "components-maze", "strength", "strength-limits", "selection", "conditioning",
    "text", "domains", "rivals", "split", "lock-in", "pilot",
}  # fmt: skip

UNDER_ATTACK = "text"
"""The one study whose trained policies are attacked in these tests; it is the longest part of a short run."""


def studies() -> Iterator[Study]:
    return (read(file).study for file in shipped().values())


def test_the_declared_studies_are_there() -> None:
    assert set(shipped()) >= ASKED
    assert list(shipped()) == sorted(shipped())


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_study_is_planned(name: str, tmp_path: Path, saei: Saei) -> None:
    study = read(shipped()[name]).study
    runs = len(study.arms) * study.bases.number * study.seeds
    said = saei("study", "run", name, "--dry-run", "--output", tmp_path, "--keep", tmp_path / "kept")
    assert said.code == 0, said
    assert f"{runs} runs to do" in said.out
    assert list(tmp_path.iterdir()) == []


def test_primary_contrasts_are_paired_over_enough_bases() -> None:
    for study in studies():
        assert study.bases.number >= 12 or not study.contrasts, study.name
        for contrast in study.contrasts:
            assert 0 < contrast.margin < contrast.smallest_effect, study.name


def test_studies_of_one_world_share_the_runs_of_equal_arms(tmp_path: Path) -> None:
    """What a study costs beside others of its world is counted on it."""
    runs: dict[str, dict[str, set[str]]] = {}
    for file in shipped().values():
        study = read(file)
        for run in plan_runs(study, tmp_path, "0" * 40):
            if study.study.bases.recipe in ("lock-in", "maze") and run.base.label == "base 0" and run.repeat == 0:
                runs.setdefault(run.arm, {}).setdefault(str(study.study.bases.recipe), set()).add(run.identity)
    for arm in ("GRPO", "SaEI"):
        of_lock_in = runs[arm]["lock-in"]
        assert len(of_lock_in) == 1, (arm, of_lock_in)
    assert len(runs["SaEI"]["maze"]) == 1 + 1  # rivals have four updates per batch
    assert runs["picture"]["lock-in"] == runs["SaEI"]["lock-in"] == runs["4/255"]["lock-in"]
    assert runs["12-and-0"]["lock-in"] == runs["GRPO"]["lock-in"]


def test_each_coupling_is_a_recipe() -> None:
    assert MODEL_RECIPES.keys() == RECIPES.keys()
    names = {recipe: make().settings() for recipe, make in MODEL_RECIPES.items() if recipe.startswith("lock-in")}
    assert {settings["coupling"]["name"] for settings in names.values()} == set(COUPLINGS)
    assert len(names) == len(COUPLINGS)
    assert names["lock-in-crisp"]["coupling"]["name"] == "crisp"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all studies run, so that they share the runs that they have in common."""
    return tmp_path_factory.mktemp("studies")


def run_to_the_end() -> list[str]:
    """Return all studies by `make studies`, else those that no other one is a variant of."""
    if os.environ.get("SAEI_STUDIES") == "all":
        return sorted(shipped())
    return sorted(name for name in shipped() if "variants" not in name and not name.startswith("lock-in-"))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", run_to_the_end())
def test_a_shipped_study_runs_to_its_end(name: str, root: Path) -> None:
    """Its runs are done here, one after the other: a process of each would import torch again."""
    study = read(shipped()[name], quick=True)
    if name != UNDER_ATTACK and study.study.final is not None:
        final = study.study.final.model_copy(update={"under_attack": ()})
        study = replace(study, study=study.study.model_copy(update={"final": final}))
    execution = Execution(study, places_of(study, root, None))
    assert execution.build_bases(jobs=1, say=print)
    with execution.open(execution.runs()) as (statuses, hooks):
        for status in statuses:
            if hooks.begin(status):
                assert main(status.folder) == 0, status.planned.label
                status.state = State.complete
                hooks.end(status)
    outcome = outcome_of(execution)
    assert (outcome.recorded, outcome.failed) == (len(study.configs), 0)
    taken = [measure for measure in study.study.all_measures if not measure.startswith("train/")]
    for arm in outcome.arms:  # whether a group has to be rescued within three steps is a matter of chance
        assert [measure for measure in taken if measure not in arm.means] == [], arm.arm
