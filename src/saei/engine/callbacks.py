"""Callbacks: a user's code that a training calls, by the names of transformers' callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saei.config.run import RunConfig
from saei.engine.state import RunState
from saei.errors import ConfigError, nearest
from saei.policy import Policy
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir

EVENTS = ("on_train_begin", "on_step_end", "on_evaluate", "on_save", "on_train_end")
"""What a callback is called for; a subset of transformers' events."""


@dataclass(slots=True)
class TrainerControl:
    """What a callback may set; read after each step.

    Attributes:
        should_training_stop: Stop after this step, with a checkpoint. Once set it stays.
        should_save: Write a checkpoint after this step.
    """

    should_training_stop: bool = False
    should_save: bool = False


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Where a training stands, by transformers' names.

    Attributes:
        global_step: Steps done.
        max_steps: ``training.steps``.
        best_metric: Best value so far of ``output.keep_best``, None without one.
        best_model_checkpoint: Folder of its checkpoint, None without one.
        is_world_process_zero: Whether this is the first of the processes that train; all of them call callbacks.
    """

    global_step: int
    max_steps: int
    best_metric: float | None = None
    best_model_checkpoint: str | None = None
    is_world_process_zero: bool = True


class TrainerCallback:
    """Does nothing at each event; derive from it, or from transformers' class of the same name, and override some.

    All methods get the run's configuration, the state and the control, and by keyword ``policy`` and ``metrics``: those
    of the step, or of the evaluation, by the full names of ``metrics.jsonl``; empty where there are none.
    """

    def on_train_begin(self, args: RunConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called before the first step, also of a resumed run."""

    def on_step_end(self, args: RunConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called after each step, once its metrics are written."""

    def on_evaluate(self, args: RunConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called after each evaluation, the one before the first step included."""

    def on_save(self, args: RunConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called after a checkpoint was written."""

    def on_train_end(self, args: RunConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called at the end, of a run that a callback stopped as well, but not after an error or an interrupt."""


class CallbackHandler:
    """Calls each callback for each event.

    Args:
        callbacks: Objects with methods of these names, in the order in which they are called.
        config: The run's configuration.
        run: Its folder.
        policy: The policy that is trained.
        state: How far the run is.
        processes: Those that train together; all of them call callbacks.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        config: RunConfig,
        *,
        run: RunDir,
        policy: Policy,
        state: RunState,
        processes: Processes,
    ) -> None:
        self._callbacks, self._config, self._run = callbacks, config, run
        self._policy, self._state, self._processes = policy, state, processes
        self._control = TrainerControl()

    def call(self, event: str, metrics: Mapping[str, float] | None = None) -> None:
        """Call the callbacks for an event.

        Args:
            event: One of ``EVENTS``.
            metrics: Those of the step or of the evaluation; None where there are none.
        """
        assert event in EVENTS
        best = self._state.best
        state = TrainerState(
            global_step=self._state.step,
            max_steps=self._config.training.steps,
            best_metric=None if best.step is None else best.value,
            best_model_checkpoint=None if best.step is None else str(best.checkpoint(self._run)),
            is_world_process_zero=self._processes.main,
        )
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                method(self._config, state, self._control, policy=self._policy, metrics=dict(metrics or {}))

    def after_step(self, metrics: Mapping[str, float], *, evaluated: bool) -> tuple[bool, bool]:
        """Call the callbacks after a step; return whether one wants a checkpoint, and whether one ends the training.

        Of a callback that fails no step is lost: it is saved first, unless other processes wait elsewhere.

        Args:
            metrics: The step's, with those of an evaluation that followed it.
            evaluated: Whether one did.
        """
        try:
            self.call("on_step_end", metrics)
            if evaluated:
                of_evaluation = {name: value for name, value in metrics.items() if not name.startswith("train/")}
                self.call("on_evaluate", of_evaluation)
        except Exception:  # whatever a user's code raises is raised again
            if self._processes.count == 1:
                self._state.save(self._run, self._policy)
            raise
        saving, self._control.should_save = self._control.should_save, False
        return self._processes.any(saving), self._processes.any(self._control.should_training_stop)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse callbacks that wait for an event that never comes.

    Raises:
        ConfigError: Naming the first.
    """
    for callback in callbacks:
        _check(callback)


def _check(callback: Any) -> None:
    """Refuse a callback of which a method would never be called, such as one whose name is misspelt.

    Raises:
        ConfigError: Naming the method.
    """
    if isinstance(callback, type):
        raise ConfigError(
            "A callback is an object.",
            reason=f"{callback.__qualname__} is a class.",
            remedy=f"Give {callback.__qualname__}().",
        )
    classes = (cls for cls in type(callback).__mro__ if not cls.__module__.startswith("transformers."))
    unknown = sorted({name for cls in classes for name in vars(cls) if name.startswith("on_")} - set(EVENTS))
    if unknown:
        raise ConfigError(
            "A callback's methods are called by transformers' names, those that saei knows.",
            reason=f"{type(callback).__qualname__}.{unknown[0]} would never be called.",
            remedy=nearest(unknown[0], EVENTS),
        )
