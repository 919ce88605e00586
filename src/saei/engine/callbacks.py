"""Callbacks: a user's code that a training calls, by the names of transformers' callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saei.config.run import RunConfig
from saei.errors import ConfigError, nearest

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


class Callbacks:
    """Calls each callback for each event.

    Args:
        callbacks: Objects with methods of these names, in the order in which they are called.

    Attributes:
        control: What the callbacks have set.

    Raises:
        ConfigError: If a callback waits for an event that never comes.
    """

    def __init__(self, callbacks: Sequence[Any]) -> None:
        for callback in callbacks:
            _check(callback)
        self._callbacks = callbacks
        self.control = TrainerControl()

    def __call__(
        self, event: str, config: RunConfig, state: TrainerState, *, policy: Any, metrics: Mapping[str, float]
    ) -> None:
        """Call the callbacks for an event."""
        assert event in EVENTS
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                method(config, state, self.control, policy=policy, metrics=dict(metrics))


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
    own = (cls for cls in type(callback).__mro__ if not cls.__module__.startswith("transformers."))
    unknown = sorted({name for cls in own for name in vars(cls) if name.startswith("on_")} - set(EVENTS))
    if unknown:
        raise ConfigError(
            "A callback's methods are called by transformers' names, those that saei knows.",
            reason=f"{type(callback).__qualname__}.{unknown[0]} would never be called.",
            remedy=nearest(unknown[0], EVENTS),
        )
