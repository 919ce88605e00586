"""Callbacks, and the best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models import tiny_folder
from runs import Checksum, Quiet, lines, registered, tiny
from saei.engine import Trainer, checkpoint
from saei.engine.best import Best
from saei.engine.callbacks import EVENTS, TrainerCallback
from saei.engine.held_out import HeldOutEvaluation
from saei.errors import ConfigError
from saei.policy import Policy
from saei.report.run_tables import read_run
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("Qwen2.5-VL", tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _reward() -> Any:
    with registered(Checksum):
        yield


class Diary(TrainerCallback):
    """Notes what it is called for, and sets flags at a step."""

    def __init__(self, **flags: int) -> None:
        self.events: list[tuple[str, int]] = []
        self.metrics: list[tuple[str, int, frozenset[str]]] = []
        self._flags = flags

    def _note(self, event: str, state: Any, control: Any, metrics: Mapping[str, float], policy: Any) -> None:
        assert isinstance(policy, Policy)
        assert state.max_steps in (4, 5)
        self.events.append((event, state.global_step))
        self.metrics.append((event, state.global_step, frozenset(name.split("/")[0] for name in metrics)))
        for flag, step in self._flags.items():
            if event == "on_step_end" and state.global_step == step:
                setattr(control, flag, True)


def note(event: str) -> Any:
    def method(self: Diary, args: Any, state: Any, control: Any, *, policy: Any, metrics: Any) -> None:
        assert args.training.steps == state.max_steps
        self._note(event, state, control, metrics, policy)

    return method


for event in EVENTS:
    setattr(Diary, event, note(event))


def run(model: Path, root: Path, *callbacks: Any, **changes: Any) -> tuple[Trainer, Quiet]:
    display = Quiet()
    changes = {"training__steps": 5, "output__checkpoint_every": 4, "output__keep_checkpoints": 9, **changes}
    trainer = Trainer(tiny(model, root, **changes), display=display, callbacks=callbacks)
    trainer.train()
    return trainer, display


def test_events_come_in_order(model: Path, tmp_path: Path) -> None:
    diary = Diary()
    run(model, tmp_path, diary)
    step, evaluate, save = "on_step_end", "on_evaluate", "on_save"
    assert diary.events == [
        ("on_train_begin", 0),
        (evaluate, 0),
        (step, 1),
        (step, 2),
        (evaluate, 2),
        (step, 3),
        (step, 4),
        (evaluate, 4),
        (save, 4),
        (step, 5),
        (evaluate, 5),
        (save, 5),
        ("on_train_end", 5),
    ]
    shown = {(event, step): families for event, step, families in diary.metrics}
    assert shown["on_evaluate", 0] == shown["on_evaluate", 2] == {"eval", "probe", "samples"}
    assert shown["on_step_end", 1] == {"train"}
    assert shown["on_step_end", 2] == {"train", "eval", "probe", "samples"}
    assert shown["on_train_begin", 0] == shown["on_save", 4] == shown["on_train_end", 5] == set()


def test_a_callback_stops_a_run_that_can_be_resumed(model: Path, tmp_path: Path) -> None:
    diary = Diary(should_training_stop=3)
    trainer, display = run(model, tmp_path / "stopped", diary)
    assert (trainer.step, diary.events[-3:]) == (3, [("on_step_end", 3), ("on_save", 3), ("on_train_end", 3)])
    assert "A callback stopped the run after step 3 of 5." in display.notes
    opened, config = RunDir.open(trainer.run.path)
    Trainer(config, resume=opened, display=Quiet()).train()
    whole, _ = run(model, tmp_path / "whole")
    assert lines(opened.path) == lines(whole.run.path)


def test_a_callback_asks_for_a_checkpoint_once(model: Path, tmp_path: Path) -> None:
    trainer, _ = run(model, tmp_path, Diary(should_save=1))
    assert [checkpoint.step_of(path) for path in checkpoint.complete_in(trainer.run.checkpoints)] == [1, 4, 5]


def test_every_process_stops_where_one_callback_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flags go through ``any`` of the processes, without which one would wait for ever for the others."""
    flags: list[bool] = []

    def of_all(self: Processes, flag: bool) -> bool:
        flags.append(flag)
        return flag

    monkeypatch.setattr(Processes, "any", of_all)
    run(model, tmp_path, Diary(should_training_stop=2, should_save=1))
    # After each step: a checkpoint, an end, an interrupt.
    assert [flags[start : start + 3] for start in (0, 3)] == [[True, False, False], [False, True, False]]


def test_no_step_is_lost_to_a_callback_that_fails(model: Path, tmp_path: Path) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(model, tmp_path, Failing())
    (saved,) = checkpoint.complete_in(tmp_path / "run" / "checkpoints")
    assert checkpoint.step_of(saved) == 2


def test_callbacks_of_transformers_serve(model: Path, tmp_path: Path) -> None:
    class Theirs(transformers.TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            control.should_training_stop = "eval/accuracy" in metrics

    trainer, _ = run(model, tmp_path, Theirs())
    assert trainer.step == 1  # the evaluation before the first step is read after it


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (type("Mine", (), {"on_step_ended": lambda self: None})(), "Mine.on_step_ended.*Did you mean 'on_step_end'"),
        (type("Mine", (transformers.TrainerCallback,), {"on_log": lambda self: None})(), "Mine.on_log would never"),
        (Diary, "Diary is a class.*Give Diary"),
    ],
)
def test_a_callback_that_would_wait_for_ever_is_refused(tmp_path: Path, callback: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Trainer(tiny(Path("nowhere"), tmp_path), callbacks=[callback], display=Quiet())


ACCURACIES = {0: 0.9, 1: 0.2, 2: 0.6, 3: 0.6, 4: float("nan"), 5: 0.5}


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations with these accuracies."""
    metrics = HeldOutEvaluation.metrics

    def measured(self: HeldOutEvaluation, step: int) -> dict[str, float]:
        return {**metrics(self, step), "eval/accuracy": ACCURACIES[step]}

    monkeypatch.setattr(HeldOutEvaluation, "metrics", measured)


KEEP: dict[str, Any] = {
    "evaluation__every": 1,
    "output__keep_best": "eval/accuracy",
    "output__keep_checkpoints": 1,
    "output__checkpoint_every": 9,
}


@pytest.mark.usefixtures("_measured")
def test_the_best_checkpoint_is_kept_and_named(model: Path, tmp_path: Path) -> None:
    """The first of equal ones; neither the policy before training nor a value that is no number."""
    diary = Diary()
    trainer, display = run(model, tmp_path, diary, **KEEP)
    kept = checkpoint.complete_in(trainer.run.checkpoints)
    assert [checkpoint.step_of(path) for path in kept] == [2, 5]
    assert [step for event, step in diary.events if event == "on_save"] == [1, 2, 5]
    named = json.loads((trainer.run.path / "best.json").read_text())
    best = "checkpoints/step-000002"
    assert named == {"metric": "eval/accuracy", "value": 0.6, "step": 2, "checkpoint": best}
    assert display.notes[-1].endswith(best)
    assert read_run(trainer.run.path).best == trainer.run.path / best
    best_weights, last = Policy.load(str(kept[0])).model.state_dict(), trainer.policy.model.state_dict()
    assert not all(torch.equal(values, last[name]) for name, values in best_weights.items())


@pytest.mark.usefixtures("_measured")
def test_a_resumed_run_remembers_its_best(model: Path, tmp_path: Path) -> None:
    trainer, _ = run(model, tmp_path, Diary(should_training_stop=3), **KEEP)
    assert [checkpoint.step_of(path) for path in checkpoint.complete_in(trainer.run.checkpoints)] == [2, 3]
    opened, config = RunDir.open(trainer.run.path)

    class State(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert (state.best_metric, state.global_step) == (0.6, 3)
            assert state.best_model_checkpoint == str(opened.checkpoints / "step-000002")

    Trainer(config, resume=opened, display=Quiet(), callbacks=[State()]).train()
    assert [checkpoint.step_of(path) for path in checkpoint.complete_in(opened.checkpoints)] == [2, 5]
    assert json.loads((opened.path / "best.json").read_text())["step"] == 2


def test_without_keep_best_nothing_is_named(model: Path, tmp_path: Path) -> None:
    trainer, display = run(model, tmp_path, training__steps=4)
    assert not (trainer.run.path / "best.json").exists()
    assert read_run(trainer.run.path).best is None
    assert not any("Best" in note for note in display.notes)


def test_another_metric_begins_anew() -> None:
    best = Best("eval/accuracy")
    assert best.update(1, {"eval/accuracy": 0.5})
    other, same = Best("probe/entropy"), Best("eval/accuracy")
    other.load_state_dict(best.state_dict())
    same.load_state_dict(best.state_dict())
    assert other.update(2, {"probe/entropy": 0.1})
    assert not same.update(2, {"eval/accuracy": 0.4})


def test_metrics_that_there_are_not_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no 'eval/acuracy'\. Did you mean 'eval/accuracy'"):
        run(model, tmp_path, output__keep_best="eval/acuracy")
    assert lines(tmp_path / "run")[-1]["step"] == 0
    with pytest.raises(ConfigError, match="keep_best"):
        tiny(model, tmp_path, output__keep_best="train/reward")
