"""Trackers: project, name and configuration; no step twice; a tracker that fails ends no run."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate import tracking
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from runs import Checksum, Quiet, lines, registered, tiny, train
from saei.engine import Trainer
from saei.errors import ConfigError
from saei.runtime.interrupt import Interrupted
from saei.runtime.run_dir import RunDir


class Spy(tracking.GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """A tracker that remembers what it is given, and fails when it is told to."""

    name = "wandb"  # started as that one is
    requires_logging_directory = False
    begun: ClassVar[list[dict[str, Any]]] = []
    logged: ClassVar[list[int]] = []
    tables: ClassVar[list[tuple[str, int, list[list[Any]]]]] = []
    fails_at: ClassVar[int] = -1
    fails_with_tables: ClassVar[bool] = False

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.options = {"project": project, **options}

    def start(self) -> None:
        if self.options["project"] == "refused":
            raise RuntimeError("api_key not configured")
        self.begun.append(self.options)

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.begun[-1]["config"] = values

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        if step == Spy.fails_at:
            raise ConnectionError("the server is away")
        self.logged.append(step or 0)

    def log_table(self, name: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        if self.fails_with_tables:
            raise OSError("No space left on device")
        assert all(len(row) == len(columns) for row in data)
        self.tables.append((name, step, data))

    def finish(self) -> None:
        self.begun[-1]["ended"] = True


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with registered(Checksum):
        yield


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> type[Spy]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Spy)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, "wandb"])
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Image=lambda picture: picture))
    monkeypatch.setattr(Spy, "begun", [])
    monkeypatch.setattr(Spy, "tables", [])
    monkeypatch.setattr(Spy, "logged", [])
    monkeypatch.setattr(Spy, "fails_at", -1)
    monkeypatch.setattr(Spy, "fails_with_tables", False)
    return Spy


def killed_and_resumed(model: Path, tmp_path: Path, *trackers: str) -> Path:
    """Return a run that got to step 3, but to no checkpoint after that of step 1, and went on from there."""
    config = tiny(model, tmp_path, output__trackers=trackers, output__checkpoint_every=1, output__keep_checkpoints=9)
    with pytest.raises(Interrupted):
        train(
            config.model_copy(update={"training": config.training.model_copy(update={"steps": 5})}),
            Quiet({3: lambda: os.kill(os.getpid(), signal.SIGINT)}),
        )
    folder = tmp_path / "run"
    for step in (2, 3):
        (folder / "checkpoints" / f"step-{step:06d}" / "trainer.pt").unlink()
    run, config = RunDir.open(folder)
    train(config, resume=run)
    assert [line["step"] for line in lines(folder)] == [0, 1, 2, 3, 4, 5]
    return folder


def events(folder: Path) -> Iterator[Any]:
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        yield from LegacyEventFileLoader(str(file)).Load()


def test_tensorboard_has_every_step_once_and_all_settings(model: Path, tmp_path: Path) -> None:
    folder = killed_and_resumed(model, tmp_path, "tensorboard")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    scalars: dict[str, list[int]] = {}
    hyperparameters = set()
    for event in events(folder / "tensorboard"):
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append(event.step)
            if value.tag == "_hparams_/session_start_info":
                hyperparameters.add(value.metadata.plugin_data.content)
    assert scalars["train/reward"] == [1, 2, 3, 4, 5]
    assert scalars["train/untouched/empty"] == [1, 2, 3, 4, 5]
    assert scalars["probe/entropy"] == [0, 2, 4, 5]
    (content,) = hyperparameters
    for name in (b"sampler.intervention.attack.step", b"2/255", b"optimizer.lr", b"plugins"):
        assert name in content


def test_a_run_keeps_its_id_and_its_name_over_a_resume(model: Path, tmp_path: Path, spy: type[Spy]) -> None:
    folder = killed_and_resumed(model, tmp_path, "wandb")
    first, second = spy.begun
    assert first["id"] == second["id"] == json.loads((folder / "trackers.json").read_text())["id"]
    for begun in (first, second):
        assert (begun["project"], begun["name"], begun["dir"]) == ("saei", "run", str(folder))
        assert (begun["resume"], begun["ended"]) == ("allow", True)
    assert first["config"]["sampler.intervention.attack.step"] == "2/255"
    assert spy.logged == [0, 1, 2, 3, 4, 5]
    assert [(name, step) for name, step, _ in spy.tables] == [("samples", step) for step in (0, 2, 4, 5)]
    assert all(data for *_, data in spy.tables)
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_tracker_that_comes_later_gets_what_it_lacks(model: Path, tmp_path: Path, spy: type[Spy]) -> None:
    train(tiny(model, tmp_path, output__trackers=["tensorboard"], training__steps=2))
    run, config = RunDir.open(tmp_path / "run")
    output = config.output.model_copy(update={"trackers": ("tensorboard", "wandb")})
    longer = config.training.model_copy(update={"steps": 3})
    train(config.model_copy(update={"output": output, "training": longer}), resume=run)
    assert spy.logged == [3]


def test_the_project_is_set_by_configuration_or_environment(
    model: Path, tmp_path: Path, spy: type[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-sweep")
    train(tiny(model, tmp_path, "a", output__trackers=["wandb"], training__steps=1))
    train(tiny(model, tmp_path, "b", output__trackers=["wandb"], training__steps=1, output__project="mine"))
    assert [begun["project"] for begun in spy.begun] == ["theirs", "mine"]
    assert spy.begun[0]["id"] == "of-a-sweep"


def test_a_tracker_that_fails_on_the_way_ends_no_run(
    model: Path, tmp_path: Path, spy: type[Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spy, "fails_at", 2)
    display = Quiet()
    run = train(tiny(model, tmp_path, output__trackers=["wandb"]), display).run.path
    assert [line["step"] for line in lines(run)] == [0, 1, 2, 3]
    said = "The tracker wandb failed and gets nothing any more: ConnectionError: the server is away"
    assert display.notes.count(said) == 1
    assert spy.logged == [0, 1]


def test_a_tracker_that_refuses_samples_still_gets_the_metrics(model: Path, tmp_path: Path, spy: type[Spy]) -> None:
    spy.fails_with_tables = True
    display = Quiet()
    train(tiny(model, tmp_path, output__trackers=["wandb"]), display)
    assert display.notes.count("The tracker wandb gets no samples any more: OSError: No space left on device") == 1
    assert sum("tracker" in note for note in display.notes) == 1
    assert spy.logged == [0, 1, 2, 3]


def test_trackers_are_refused_before_training(model: Path, tmp_path: Path, spy: type[Spy]) -> None:
    with pytest.raises(ConfigError, match=r"Got 'tensorbord'\. Did you mean 'tensorboard'"):
        Trainer(tiny(Path("nowhere"), tmp_path, output__trackers=["tensorbord"]), display=Quiet())
    with pytest.raises(ConfigError, match="'dvclive' is not installed"):
        Trainer(tiny(Path("nowhere"), tmp_path, output__trackers=["dvclive"]), display=Quiet())
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="'wandb' raised RuntimeError: api_key not configured"):
        train(tiny(model, tmp_path, output__trackers=["wandb"], output__project="refused"))
