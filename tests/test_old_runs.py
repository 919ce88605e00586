"""A run of 0.1 still evaluates, goes on and is shown; fields that there are no more are dropped with a note."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands import Saei
from runs import Quiet, lines
from saei.cli.options import policy_config
from saei.cli.resume import resumed_run
from saei.config.format import FORMAT, REMOVED, without_removed
from saei.config.overrides import load_config
from saei.config.run import dump, validate
from saei.config.yaml import read_yaml, write_yaml
from saei.engine import Trainer
from saei.errors import CheckpointError, ConfigError
from saei.report.compare import read_curve
from saei.runtime.run_dir import RunDir

OLD = Path(__file__).parent / "old_runs" / "0.1"
GONE = set(REMOVED)


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of 0.1 with a checkpoint of step 1; its checkpoints were as they are now."""
    root = tmp_path_factory.mktemp("runs")
    data, _ = without_removed(read_yaml(OLD / "config.yaml"), where="it")
    data["output"] |= {"root": str(root), "name": "donor"}
    donor = Trainer(validate(data), display=Quiet())
    metrics = donor.train_step()
    donor.run.append({"step": donor.step, **metrics})
    donor.save()
    donor.run.lock.release()
    shutil.copytree(OLD, root / "0.1")
    shutil.copytree(donor.run.checkpoints, root / "0.1" / "checkpoints")
    return root / "0.1"


@pytest.fixture
def run(old_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(old_run, tmp_path / "0.1"))


def test_the_kept_run_is_of_the_first_format() -> None:
    record = read_yaml(OLD / "config.yaml")
    assert "format" not in record
    assert {f"training.{name}" for name in record["config"]["training"]} >= GONE


def test_it_is_read_with_a_note_for_each_field_that_went(run: Path) -> None:
    opened, config = RunDir.open(run)
    assert config.training.prompts_per_step == 2
    assert len(opened.notes) == len(GONE)
    for note, (path, removed) in zip(opened.notes, REMOVED.items(), strict=True):
        assert note.startswith(f"{run} is of an older saei and sets {path} to ")
        assert removed.instead in note
    assert config.training.updates_per_batch == 2  # of its two groups one was in each minibatch
    assert opened.notes[0].endswith("Here it is 2.")


def test_it_evaluates(run: Path, saei: Saei) -> None:
    config = policy_config(str(run), [], [], [])
    assert config.model.path == str(run / "checkpoints" / "step-000001")
    said = saei("eval", "--model", run, "--examples", 2, "--responses", 2, "--json")
    assert said.code == 0, said.err
    assert "accuracy" in json.loads(said.out)["metrics"]
    assert "sets training.seed_per to 'step', which is gone" in said.err


def test_it_goes_on(run: Path) -> None:
    opened, config = resumed_run(run, [], [])
    display = Quiet()
    Trainer(config, resume=opened, display=display).train()
    assert [line["step"] for line in lines(run)] == [0, 1, 2]
    assert any("training.seed_per" in note for note in display.notes)
    record = read_yaml(run / "config.yaml")
    assert record["format"] == FORMAT
    assert "seed_per" not in record["config"]["training"]
    again, _ = RunDir.open(run)
    assert again.notes == []  # the record was written anew


def test_it_is_shown() -> None:
    assert [point["step"] for point in read_curve("old", OLD).points] == [0, 1, 2]


def test_a_new_run_has_the_format_and_no_notes(tmp_path: Path) -> None:
    config = validate({"output": {"root": str(tmp_path), "name": "new"}})
    created = RunDir.create(config)
    assert next(iter(read_yaml(created.path / "config.yaml").items())) == ("format", FORMAT)
    opened, again = RunDir.open(created.path)
    assert (opened.notes, dump(again)) == ([], dump(config))


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "2", None, True])
def test_a_format_that_is_not_known_is_refused(run: Path, number: Any) -> None:
    record = read_yaml(run / "config.yaml") | {"format": number}
    (run / "config.yaml").write_text(write_yaml(record))
    with pytest.raises(CheckpointError, match=f"reads runs of formats 1 to {FORMAT}"):
        RunDir.open(run)


@pytest.mark.parametrize(
    "training",
    [
        {"minibatch_groups": 0, "prompts_per_step": 4},
        {"minibatch_groups": "two", "prompts_per_step": 4},
        {"minibatch_groups": 2, "prompts_per_step": [4]},
        {"minibatch_groups": 2},
    ],
)
def test_a_damaged_record_is_refused(training: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as refused:
        without_removed({"config": {"training": training}}, where="runs/a")
    assert f"In runs/a it is {training['minibatch_groups']!r}, and the record is damaged" in refused.value.reason
    assert "config.yaml" in refused.value.remedy


def test_a_run_of_today_cannot_have_a_field_of_yesterday(run: Path) -> None:
    record = read_yaml(run / "config.yaml") | {"format": FORMAT}
    (run / "config.yaml").write_text(write_yaml(record))
    with pytest.raises(ConfigError, match=r"training\.seed_per: This field is gone\. Every group draws"):
        RunDir.open(run)


def test_a_user_is_told_what_replaced_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {seed_per: group}\n")
    for layer in ({"file": file}, {"assignments": ["training.seed_per=group"]}):
        with pytest.raises(ConfigError, match=r"training\.seed_per: This field is gone\. Every group draws"):
            load_config(**layer)


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ({"training": {"seed_per": "step", "steps": 2}, "seed": 1}, {"training": {"steps": 2}, "seed": 1}),
        ({"training": {"steps": 2}}, {"training": {"steps": 2}}),
        ({"training": "broken"}, {"training": "broken"}),
        ({}, {}),
    ],
)
def test_only_what_went_is_dropped(config: dict[str, Any], left: dict[str, Any]) -> None:
    kept, notes = without_removed({"config": config}, where="it")
    assert kept == left
    assert len(notes) == ("seed_per" in str(config))
