"""The state of a run: what a checkpoint holds in addition to the weights, and how a run resumes from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saei.config.run import RunConfig
from saei.config.strategy import Strategy, restore, state_of
from saei.engine import checkpoint
from saei.engine.best import Best
from saei.engine.limits import EmptySteps, NothingToMove
from saei.engine.replay import Replay
from saei.errors import CheckpointError, DataError, TrainingError, cause_of
from saei.intake.stream import ViewStream
from saei.policy import Policy
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir


class RunState:
    """How far a run is, with the states of its strategies, its stream of views and its optimiser.

    Args:
        config: The run's configuration.
        strategies: Strategies with state, by the name that they have in a checkpoint.
        lacking: What the sampler's surfaces may say of a view that lacks them.
        stream: The stream of views, which has a position.
        replay: What is kept of earlier steps.
        optimizer: Prepared by the accelerator.
        processes: Those that train together; a checkpoint keeps the states of all.

    Attributes:
        step: Steps done.
        budget: Responses sampled for training so far, over all processes.
        nothing_to_move: Counts groups without anything that an attack, or the control in its place, could move.
        empty_steps: Counts steps without a group to train on.
        best: The best checkpoint so far.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        strategies: Mapping[str, Strategy],
        lacking: Collection[str] = (),
        stream: ViewStream,
        replay: Replay,
        optimizer: Any,
        processes: Processes,
    ) -> None:
        self._strategies, self._stream, self._optimizer = strategies, stream, optimizer
        self._replay, self._processes = replay, processes
        self._keep = config.output.keep_checkpoints
        self.step = 0
        self.budget = 0
        self.nothing_to_move = NothingToMove(config.training.max_untouched, lacking)
        self.empty_steps = EmptySteps(config.training.max_empty_steps)
        self.best = Best(config.output.keep_best)

    def problem(self) -> DataError | TrainingError | None:
        """Return why the run should stop, None while it should not."""
        return self.nothing_to_move.problem() or self.empty_steps.problem()

    def collect(self) -> dict[str, Any]:
        """Return everything but the weights, the optimizer's moments and what the replay keeps."""
        of_this_process = {name: state_of(strategy) for name, strategy in self._strategies.items()}
        first, *others = self._processes.gather(of_this_process)
        return {
            "step": self.step,
            "stream": self._stream.state_dict(),
            "budget": self.budget,
            "nothing_to_move": self.nothing_to_move.state_dict(),
            "empty_steps": self.empty_steps.state_dict(),
            "best": self.best.state_dict(),
            "others": others,
            **first,
        }

    def save(self, run: RunDir, policy: Policy, state: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint and return its folder.

        Args:
            run: The run.
            policy: Its weights are those of the state.
            state: What ``collect`` returned; None for the present state.

        Raises:
            CheckpointError: If the disk refuses, or a state could not be read back.
        """
        # A step that fails before its update has not changed what the replay keeps.
        large = {"optimizer": self._optimizer.state_dict(), "replay": self._replay.state()}
        whole = {**(self.collect() if state is None else state), **large}
        step, folder, best = whole["step"], run.checkpoints, whole["best"]["step"]

        def write() -> Path:
            saved = checkpoint.save(folder, step, policy, whole, keep=self._keep, best=best)
            if best == step:
                self.best.write(run)
            return saved

        return self._processes.once(write)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: If it is damaged, or belongs to another model.
        """
        state = checkpoint.load_state(folder)
        try:
            self._optimizer.load_state_dict(state["optimizer"])
            for parameter, moments in self._optimizer.state.items():  # AdamW loads moments of any shape
                if moments["exp_avg"].shape != parameter.shape:
                    raise ValueError(f"{list(moments['exp_avg'].shape)} moments for {list(parameter.shape)} weights")
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                "A checkpoint has to belong to the model that is trained.",
                reason=f"{folder}: {error}.",
                remedy="Resume the run that wrote it.",
            ) from error
        self._stream.load_state_dict(state["stream"])
        self._replay.load(state.get("replay", []))
        of_this_process = checkpoint.state_of_rank(state, list(self._strategies), self._processes)
        for name, strategy in self._strategies.items():
            restore(strategy, of_this_process[name])
        self.budget = int(state["budget"])
        self.nothing_to_move.load_state_dict(
            state["nothing_to_move"] if "nothing_to_move" in state else state["imageless"]
        )
        self.empty_steps.load_state_dict(state.get("empty_steps", {"in_a_row": 0}))
        self.best.load_state_dict(state.get("best", {}))
        self.step = int(state["step"])

    @contextmanager
    def saved_on_failure(self, run: RunDir, policy: Policy, updates: Callable[[], int]) -> Iterator[None]:
        """Run a step in this context; if it fails before its update, write the checkpoint that the step began from.

        Most failures come from users' code: a reward, a task, a sampler. No earlier step is lost then, and the step
        is repeated, bit for bit, once the code is fixed. Several processes write no checkpoint, since the others are
        waiting in the middle of their step.

        Args:
            run: The run.
            policy: The policy that is trained.
            updates: Returns how many optimiser steps were begun: without a new one, the weights have not changed.

        Raises:
            TrainingError: If that code asked the process to exit.
        """
        before = copy.deepcopy(self.collect()) if self._processes.count == 1 else None
        updates_before = updates()
        try:
            yield
        except (Exception, SystemExit) as error:  # whatever that code raises is raised again
            if before is not None and updates() == updates_before:
                written = map(checkpoint.step_of, checkpoint.complete_in(run.checkpoints))
                if before["step"] not in (0, *written):
                    with suppress(CheckpointError):  # the step's own error matters more than a full disk
                        self.save(run, policy, before)
            if isinstance(error, SystemExit):
                raise TrainingError(
                    "Only the user ends a run.",
                    reason=f"{cause_of(error)}.",
                    remedy="Take the call of sys.exit out of that code, and resume the run.",
                ) from error
            raise
