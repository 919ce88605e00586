"""Folders of runs and evaluations: one writer, names from any text, full disks, broken lines, damaged checkpoints."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from commands import Saei
from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.data.bars import Bars
from saei.data.base import Split
from saei.engine import Trainer, checkpoint
from saei.errors import CheckpointError, ConfigError
from saei.evaluation.store import EvaluationDir
from saei.policy import Policy
from saei.runtime import run_dir as rundir
from saei.runtime.interrupt import Interrupted
from saei.runtime.lock import LOCK
from saei.runtime.run_dir import RunDir
from saei.types import Example
from test_files import HOSTILE
from test_lock import holder

SHORT = (
    "sampling.max_new_tokens=6", "model.device=cpu", "model.threads=1", "training.prompts_per_step=1",
    "evaluation.examples=1", "evaluation.responses=1", "evaluation.probe_examples=1", "evaluation.probe_responses=1",
)  # fmt: skip
SETS = [word for size in SHORT for word in ("--set", size)]


class Unnameable(Bars):
    """Bars with ids that are no names of files."""

    class Config(Bars.Config):
        type: Literal["unnameable"] = "unnameable"  # type: ignore[assignment]

    def example(self, index: int, split: Split = "train") -> Example:
        return replace(super().example(index, split), id=HOSTILE[index % len(HOSTILE)])


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    with registered(Checksum, Unnameable):
        yield


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """Let another process write into a folder."""
    processes: list[subprocess.Popen[str]] = []

    def hold(folder: Path) -> None:
        processes.append(holder(folder))

    yield hold
    for process in processes:
        process.kill()
        process.wait()


# One writer at a time


def test_unnamed_runs_of_one_second_have_folders_of_their_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Stopped:
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr(rundir, "datetime", Stopped)
    config = tiny(model, tmp_path, None)  # type: ignore[arg-type]  # without a name
    names = [RunDir.create(config).path.name for _ in range(3)]
    assert names == [f"bars-mixed-20260101-120000{end}" for end in ("", "-2", "-3")]


def test_a_run_that_another_process_writes_is_left_alone(model: Path, tmp_path: Path, elsewhere: Any) -> None:
    train(tiny(model, tmp_path, training__steps=1))
    folder = tmp_path / "run"
    assert not (folder / LOCK).exists()  # the end of training gives it back
    before = (folder / "metrics.jsonl").read_bytes(), (folder / "config.yaml").read_bytes()
    elsewhere(folder)
    run, config = RunDir.open(folder)
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    with pytest.raises(ConfigError, match="one writer at a time"):
        Trainer(longer, resume=run, display=Quiet())
    assert before == ((folder / "metrics.jsonl").read_bytes(), (folder / "config.yaml").read_bytes())
    # Another run of its name, whose process has not got as far as its configuration.
    elsewhere(tmp_path / "begun")
    with pytest.raises(ConfigError, match="one writer at a time"):
        RunDir.create(tiny(model, tmp_path, "begun"))


def test_a_refused_resume_changes_nothing(saei: Saei, model: Path, tmp_path: Path, elsewhere: Any) -> None:
    train(tiny(model, tmp_path, training__steps=1))
    before = (tmp_path / "run" / "config.yaml").read_text()
    elsewhere(tmp_path / "run")
    said = saei("train", "--resume", "run", "--steps", 5)
    assert (said.code, "one writer at a time" in said.err) == (2, True), said.err
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_the_lock_is_given_back_however_a_run_ends(model: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for name, error, display in (
        ("at once", KeyboardInterrupt, Quiet({1: interrupt})),
        ("after a step", Interrupted, Quiet({1: lambda: os.kill(os.getpid(), 2)})),
    ):
        with pytest.raises(error):
            train(tiny(model, tmp_path, name), display)
        assert (tmp_path / name / "metrics.jsonl").exists()
        assert not (tmp_path / name / LOCK).exists()


def test_a_run_whose_folder_is_taken_over_stops(model: Path, tmp_path: Path) -> None:
    def take_over() -> None:
        (tmp_path / "run" / LOCK).unlink()
        RunDir(tmp_path / "run").lock.acquire()

    with pytest.raises(CheckpointError, match="no longer this process's"):
        train(tiny(model, tmp_path), Quiet({1: take_over}))
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 1]


def test_a_demo_does_not_delete_the_run_of_another(saei: Saei, model: Path, elsewhere: Any) -> None:
    folder = Path("demo/bars-clean-steps1-seed0")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("of a run without a checkpoint yet")
    elsewhere(folder)
    said = saei("demo", "--output", "demo", "--steps", 1, *SETS, "--set", f"model.path={model}")
    assert (said.code, "one writer at a time" in said.err) == (2, True), said.err
    assert (folder / "config.yaml").exists()


READ = SETS[: 2 * 3]  # those that an evaluation reads
EVAL = ("eval", "--benchmark", "bars", "--examples", 2, "--output", "out", *READ, "--set", "reward=checksum")


def test_an_evaluation_that_another_process_writes_is_left_alone(saei: Saei, model: Path, elsewhere: Any) -> None:
    elsewhere(Path("out"))
    said = saei(*EVAL, "--model", model)
    assert (said.code, "one writer at a time" in said.err) == (2, True), said.err
    assert [path.name for path in Path("out").iterdir()] == [LOCK]
    elsewhere(Path("harm/clean"))
    said = saei(*EVAL, "--model", model, "--robust", "--radius", "1/255", "--output", "harm")
    assert (said.code, "one writer at a time" in said.err) == (2, True), said.err
    assert saei(*EVAL, "--model", model, "--output", "free").code == 0
    assert not (Path("free") / LOCK).exists()


# Names


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out", "a/b", "..", ".", "", "a\nb", "é" * 101])
def test_a_run_stays_below_its_root(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"output\.name: A run's name is that of one folder below output\.root"):
        tiny(model, tmp_path, name)


def test_the_name_of_a_run_has_no_nul(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"without NUL characters\. output\.name is"):
        tiny(model, tmp_path, "a\0b")


def test_any_id_of_an_example_has_its_picture(model: Path, tmp_path: Path) -> None:
    count = len(HOSTILE)
    changes: dict[str, Any] = {"training__steps": 1, "training__prompts_per_step": count, "task": "unnameable"}
    changes |= {"evaluation__adversarial_images": count, "sampling__max_new_tokens": 3}
    run = train(tiny(model, tmp_path, **changes)).run.path
    groups = [group for group in RunDir(run).samples()[0] if group.source == "training"]
    assert len(groups) == count
    for group in groups:
        for view in group.views:
            with Image.open(io.BytesIO(view.pictures[0])) as image:
                image.verify()


# Full disks


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_at_the_metrics_leaves_a_run_to_go_on_with(
    saei: Saei, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny(model, tmp_path, "whole", output__checkpoint_every=1)).run.path
    append_line = rundir.append_line

    def filling(file: Path, line: Any) -> None:
        if file.name == "metrics.jsonl" and line["step"] == 3:
            with file.open("a") as stream:
                stream.write('{"step": 3, "train/lo')
            full()
        append_line(file, line)

    with monkeypatch.context() as patched:
        patched.setattr(rundir, "append_line", filling)
        with pytest.raises(CheckpointError) as raised:
            train(tiny(model, tmp_path, output__checkpoint_every=1))
    assert f"{tmp_path / 'run' / 'metrics.jsonl'}: No space left on device" in raised.value.reason
    assert "Free some space and go on with `saei train --resume" in raised.value.remedy
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step-000002"
    run, config = RunDir.open(tmp_path / "run")
    train(config, resume=run)
    assert lines(tmp_path / "run") == lines(whole)


def test_samples_that_find_no_room_cost_no_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = Quiet()
    with monkeypatch.context() as patched:
        patched.setattr(pyarrow.parquet, "write_table", full)
        run = train(tiny(model, tmp_path), display).run.path
    assert [line["step"] for line in lines(run)] == [0, 1, 2, 3]
    said = [note for note in display.notes if "No space left" in note]
    assert [note[:29] for note in said] == [f"The samples of step {step} are not" for step in (0, 2, 3)]
    assert list((run / "samples").iterdir()) == []


def test_an_evaluation_on_a_full_disk_goes_on_later(saei: Saei, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        said = saei(*EVAL, "--model", model)
    assert said.code == 2, said
    assert "out/answers.jsonl: No space left on device" in said.err
    assert "the same command goes on" in said.err
    assert "Traceback" not in said.err
    assert saei(*EVAL, "--model", model).code == 0
    assert len(EvaluationDir(Path("out")).records()) == 2


# Broken lines


def test_a_broken_line_costs_no_later_step(model: Path, tmp_path: Path) -> None:
    whole = train(tiny(model, tmp_path, "whole", training__steps=4)).run.path
    train(tiny(model, tmp_path))
    file = tmp_path / "run" / "metrics.jsonl"
    first, *rest = file.read_bytes().splitlines(keepends=True)
    broken = b'{"step": 1, "tra\n\xff\xfe\x00\n[3]\n'
    file.write_bytes(first + broken + b"".join(rest))
    assert [line["step"] for line in RunDir(tmp_path / "run").metrics()] == [0, 1, 2, 3]
    run, config = RunDir.open(tmp_path / "run")
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 4})})
    display = Quiet()
    train(longer, display, resume=run)
    assert [line["step"] for line in lines(tmp_path / "run")] == [line["step"] for line in lines(whole)]
    assert "3 broken lines of metrics.jsonl were left out." in display.notes


def test_a_run_without_a_checkpoint_begins_again_whatever_its_lines_hold(model: Path, tmp_path: Path) -> None:
    config = tiny(model, tmp_path)
    run = RunDir.create(config)
    (run.path / "metrics.jsonl").write_text('{}\n{"step": "x"}\n{"step": 1}\n')
    assert checkpoint.start_of(run, config) is None
    run.lock.release()
    train(config, resume=run)
    assert [line["step"] for line in lines(run.path)] == list(range(config.training.steps + 1))


# Checkpoints


def test_checkpoints_are_in_the_order_of_their_steps(random_policy: Policy, tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        checkpoint.save(tmp_path, step, random_policy, {"step": step}, keep=2)
    (tmp_path / "step-mine").mkdir()
    (tmp_path / "step-mine" / checkpoint.STATE).touch()
    assert [path.name for path in checkpoint.complete_in(tmp_path)] == ["step-999999", "step-1000000"]
    assert checkpoint.step_of(checkpoint.latest(tmp_path)) == 1_000_000
    checkpoint.save(tmp_path, 1_000_001, random_policy, {"step": 1_000_001}, keep=1)
    assert [path.name for path in checkpoint.complete_in(tmp_path)] == ["step-1000001"]


def test_what_killed_processes_left_behind_goes(random_policy: Policy, tmp_path: Path) -> None:
    for name in (".step-000007.tmp", ".step-000003.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    checkpoint.save(tmp_path, 8, random_policy, {}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000008"]


def test_a_checkpoint_killed_while_it_is_deleted_is_none(
    random_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, random_policy, {"step": step}, keep=2)

    def die(folder: Path, **_: Any) -> None:
        if (folder / "model.safetensors").exists():
            (folder / "model.safetensors").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 3, random_policy, {"step": 3}, keep=2)
    assert [path.name for path in checkpoint.complete_in(tmp_path)] == ["step-000002", "step-000003"]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors", "tokenizer.json"])
def test_a_flipped_bit_is_refused_where_the_file_is_read(saei: Saei, model: Path, tmp_path: Path, name: str) -> None:
    train(tiny(model, tmp_path, training__steps=1))
    folder = checkpoint.latest(tmp_path / "run" / "checkpoints")
    flip(folder / name)
    said = saei("train", "--resume", "run", "--steps", 2)
    assert said.code == 2, said
    assert f"{name} differs from what was written" in said.err
    assert "Traceback" not in said.err
    looked = saei("eval", "--model", folder, "--examples", 1, "--responses", 1)
    assert (looked.code == 2) == (name != "trainer.pt"), looked.err  # which an evaluation does not read


# What a run is made with


PLUGIN = """
from typing import Literal
from saei.entropy.selectors.base import Selector
from saei.config.registry import register

@register
class Mine(Selector):
    class Config(Selector.Config):
        type: Literal["mine"] = "mine"

    def select(self, stats, *, progress, generator):
        return stats.valid_NT
"""


def test_a_run_records_where_every_part_is_from(model: Path, tmp_path: Path) -> None:
    from importlib.metadata import version

    (tmp_path / "mine.py").write_text(PLUGIN)
    sampler = {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "intervention": {"selector": "mine"}}
    objective = {"type": "grpo", "terms": ["kl"]}
    config = tiny(model, tmp_path, plugins=["./mine.py"], sampler=sampler, objective=objective)
    recorded = yaml.safe_load((RunDir.create(config).path / "config.yaml").read_text())
    parts = recorded["parts"]
    own = {"distribution": "saei", "version": version("saei")}
    assert parts["sampler"] == {"name": "mixed", **own}
    assert parts["sampler.intervention.attack"] == {"name": "pgd", **own}
    assert parts["objective.terms.0"] == {"name": "kl", **own}
    assert {"task", "template", "reward", "objective", "sampler.intervention.gate"} <= parts.keys()
    mine = parts["sampler.intervention.selector"]
    assert (mine["name"], mine["file"]) == ("mine", str(tmp_path / "mine.py"))
    assert len(mine["sha256"]) == 64
    assert recorded["versions"]["pillow"] == version("pillow")
    json.dumps(recorded)


def test_counts_that_are_zero_are_reported(model: Path, tmp_path: Path) -> None:
    """A curve that ends where a count becomes 0 reads as one that stays where it was."""
    mixed = {"type": "mixed", "n_clean": 2, "n_adversarial": 2, "intervention": {"gate": "zero-variance"}}
    steps = lines(train(tiny(model, tmp_path, sampler={"type": "dynamic", "of": mixed, "max_rounds": 1})).run.path)
    for line in steps[1:]:
        assert {"train/untouched/varies", "train/dropped/no-variance"} <= line.keys()
        for reason in ("no-image", "empty"):
            assert line[f"train/untouched/{reason}"] == 0.0
    assert [line["probe/strategy/steps"] for line in steps if "probe/entropy" in line] == [0.0] * 3
    times = [{name for name in line if name.startswith("time/")} for line in RunDir(tmp_path / "run").metrics()]
    assert all(names == times[0] for names in times)
    phases = ("data", "sample", "attack", "reward", "advantage", "update", "evaluate", "samples")
    assert times[0] == {f"time/{phase}" for phase in phases}
