"""The training loop: draw groups, grade them, take advantages, update; evaluate and checkpoint in between.

examples ─ sampler ─► groups ─ reward ─► scored groups ─ guards, advantage ─► train groups ─ loss ─► optimiser steps
                                                                    replay ─► those of earlier steps ─┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saei.config.control import readers_of_control
from saei.config.run import RunConfig
from saei.config.strategy import observe_all
from saei.data.in_memory import Examples
from saei.engine import checkpoint
from saei.engine.callbacks import Callbacks, TrainerState
from saei.engine.control import ControlProbe
from saei.engine.display import Display, PlainDisplay, SilentDisplay
from saei.engine.grader import StepGrader
from saei.engine.held_out import HeldOutEvaluation
from saei.engine.metrics import drop_metrics, group_metrics, view_divergence
from saei.engine.objects import Model, take_objects
from saei.engine.output import RunOutput
from saei.engine.replay import Replay
from saei.engine.schedule import Schedule
from saei.engine.setup import (
    build_strategies,
    check_output,
    load_policy,
    load_reference,
    notes_of,
    open_data,
    start_processes,
)
from saei.engine.state import RunState
from saei.engine.update import Updater
from saei.objectives.advantages.base import train_group
from saei.policy.decoder import DecoderGaps
from saei.policy.statistics.needs import policies_of
from saei.rewards.base import Reward
from saei.rewards.in_memory import RewardFunction
from saei.runtime.interrupt import Interrupted, StopRequest
from saei.runtime.launcher import first_process
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources, derive, seed_globals
from saei.runtime.stopwatch import PHASES, Stopwatch
from saei.samplers.base import StepContext, Supply, checked_drops
from saei.types import ScoredGroup, View


class Trainer:
    """Trains a policy.

    Everything random is seeded by the run's seed and the step, so that equal configurations give equal runs on the
    same machine, and a resumed run is the run that was never stopped. Started by a launcher, this is one of several
    processes that train together; the first of them writes.

    Args:
        config: The run's configuration.
        resume: A run to go on with from its newest checkpoint; None starts a new one.
        display: Where progress is shown.
        examples: Examples in place of ``config.task``: ``Example`` objects, rows, or a split of ``datasets``.
        eval_examples: Those of the evaluations; None holds out some of the others.
        reward: A function in place of ``config.reward``; see ``saei.rewards.in_memory.InMemory`` for what it is given.
        model: A model in place of ``config.model.path``: a path, ``(model, processor)`` or a policy's parts.
        callbacks: Objects with methods such as ``on_step_end``; see ``TrainerCallback``.

    Raises:
        SaeiError: If configuration, model, data or checkpoint cannot work; this comes before any long work.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        resume: RunDir | None = None,
        display: Display | None = None,
        examples: Examples | None = None,
        eval_examples: Examples | None = None,
        reward: RewardFunction | Reward | None = None,
        model: Model | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.display = display or PlainDisplay()
        config, objects = take_objects(
            config,
            examples=examples,
            eval_examples=eval_examples,
            reward=reward,
            model=model,
            resumed=resume is not None,
        )
        self._callbacks = Callbacks(callbacks)

        # --- Errors that need no weights come before any weights are loaded.
        if resume is not None and first_process():
            resume.lock.acquire()  # before its newest checkpoint is looked for, which another process may delete
        check_output(config, new=resume is None)
        strategies = build_strategies(config, task=objects.task, reward=objects.reward)
        self.task, self.reward = strategies.task, strategies.reward
        self.sampler, self.objective = strategies.sampler, strategies.objective
        start = checkpoint.start_of(resume, config) if resume else None

        # --- The policy, and where its responses come from.
        with_reference = any("reference" in policies_of(need) for need in strategies.objective.all_needs)
        # Copied before the model that was given is trained.
        reference_parts = objects.reference_parts(config.model) if with_reference and not config.model.lora else None
        self.policy = load_policy(config, strategies.template, checkpoint=start, parts=objects.parts)
        self._decoder_gaps = DecoderGaps(config.training.max_decoder_gap)
        self.policy.decoder, self.policy.on_decoded = config.decoder.build(), self._decoder_gaps

        # --- The processes that train together, the optimiser and the update.
        self.accelerator, self.processes = start_processes(config, self.policy.device)
        if not self.processes.main:
            self.display = SilentDisplay()
        self.optimizer: Any = torch.optim.AdamW(
            [parameter for parameter in self.policy.module.parameters() if parameter.requires_grad],
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
        )
        self.schedule = Schedule(self.optimizer, config.optimizer, config.training)
        self.policy.module, self.optimizer = self.accelerator.prepare(self.policy.module, self.optimizer)
        reference = None
        if with_reference:
            reference = load_reference(config, self.policy, self.accelerator, reference_parts)
        self.updater = Updater(
            self.policy,
            self.objective,
            optimizer=self.optimizer,
            schedule=self.schedule,
            accelerator=self.accelerator,
            config=config.training,
            max_grad_norm=config.optimizer.max_grad_norm,
            reference=reference,
            seed=config.seed,
            processes=self.processes,
        )

        # --- The data, and where the run stands in it.
        self._data = open_data(config, strategies, self.policy, self.processes)
        self.stream = self._data.stream
        self._evaluation = HeldOutEvaluation(
            config,
            self.policy,
            task=self.task,
            reward=self.reward,
            stream=self.stream,
            processes=self.processes,
        )
        self._control: ControlProbe | None = None
        if readers_of_control(config):
            self._control = ControlProbe(
                config,
                self.policy,
                stream=self.stream,
                held_out=self._evaluation.views,
                processes=self.processes,
            )
        self._stateful = strategies.stateful
        self._replay = Replay(
            config.training.replay,
            planned=config.training.prompts_per_step * self.sampler.group_size,
            seed=config.seed,
            device=self.policy.device,
            processes=self.processes,
        )
        self._state = RunState(
            config,
            strategies=self._stateful,
            lacking=self.sampler.plan().lacking,
            stream=self.stream,
            replay=self._replay,
            optimizer=self.optimizer,
            processes=self.processes,
        )
        if start is not None:
            self._state.load(start)

        # --- The run's folder comes last, once everything else is known to work.
        config = self.config = config.model_copy(update={"task": self.task.pinned()})
        self.run = self.processes.once(lambda: RunDir.create(config)) if resume is None else resume
        if resume:
            self.processes.once(lambda: resume.record(config))
        scanned = self._data.scanned
        if scanned is not None:
            self.processes.once(lambda: scanned.write(self.run.path))
        self._output = RunOutput(self.run, config, self.display, self.processes)
        self._stopwatch = Stopwatch(PHASES)

    @property
    def step(self) -> int:
        """Steps done."""
        return self._state.step

    @property
    def budget(self) -> int:
        """Responses sampled for training so far, over all processes."""
        return self._state.budget

    def train(self) -> Path:
        """Train up to ``training.steps`` and return the run's folder.

        Raises:
            Interrupted: If a signal asked to stop; a checkpoint was written.
            DataError: If too many examples are unusable, or, after a checkpoint, if too many have no image.
        """
        self.processes.once(self.run.lock.acquire)
        try:
            self._train()
        finally:
            self._output.close()
            self.run.lock.release()
        return self.run.path

    def _train(self) -> None:
        config, state = self.config, self._state
        broken = self.processes.once(lambda: self.run.rewind(self.step if self.step else -1))
        self._output.open()
        stopping_note = "Stopping after this step and its checkpoint. Interrupt again to stop at once."
        with StopRequest(lambda: self.display.note(stopping_note)) as stop, self.display.open(config, self.run.path):
            for note in (*self.run.notes, *notes_of(config, self.task, self.policy, self._data)):
                self.display.note(note)
            if broken:
                self.display.note(f"{broken} broken lines of metrics.jsonl and samples.jsonl were left out.")
            self._call("on_train_begin")
            if self.step == 0:
                metrics = self.evaluate()
                self._output.metrics(0, metrics | self._stopwatch.read())
                state.best.note(0, metrics)
                self._call("on_evaluate", metrics)
            while self.step < config.training.steps:
                with state.saved_on_failure(self.run, self.policy, updates=lambda: self.updater.updates):
                    metrics = self.train_step()
                self._output.metrics(self.step, metrics | self._stopwatch.read())
                evaluated = self._evaluation.is_due(self.step)
                best = evaluated and state.best.note(self.step, metrics)
                saving, ending = self._call_after_step(metrics, evaluated=evaluated)
                last = self.step == config.training.steps
                stopping = self.processes.any(stop.requested)
                problem = None if last else state.problem()
                due = self.step % config.output.checkpoint_every == 0
                if last or stopping or problem or due or best or saving or ending:
                    self.save()
                if problem is not None:
                    raise problem
                if stopping and not last:
                    raise Interrupted(f"Stopped after step {self.step} of {config.training.steps}.")
                if ending and not last:
                    self.display.note(f"A callback stopped the run after step {self.step} of {config.training.steps}.")
                    break
            self._call("on_train_end")
            if state.best.step is not None:
                self.display.note(f"Best checkpoint, by {config.output.keep_best}: {state.best.checkpoint(self.run)}")
            if self.stream.bad:
                self.display.note(f"Unusable examples were met and skipped {self.stream.bad} times.")
            if self.stream.too_long:
                self.display.note(f"{self.stream.too_long} examples were left out for the length of their prompts.")

    def train_step(self) -> dict[str, float]:
        """Do one step, with the evaluation that is due after it, and return its metrics; nothing else is written."""
        config, state, step = self.config, self._state, self.step
        progress, due = step / config.training.steps, self._evaluation.is_due(step + 1)
        rank = [self.processes.rank] if self.processes.rank else []  # the first process is seeded like the only one
        seed_globals(derive(config.seed, "globals", step, *rank))
        grader = StepGrader(self.reward)

        def take(n: int) -> list[View]:
            with self._stopwatch.phase("data"):
                return self.stream.take(n)

        # --- Draw. This process takes its share of the examples; the sampler draws responses from their clean views,
        #     and from the views that it makes of them.
        context = StepContext(
            policy=self.policy,
            progress=progress,
            sources=GroupSources(config.seed, "sample", step),
            phase=self._stopwatch.phase,
            traced=due,
            answer=self.task.answer if self.task.oracle else None,
        )
        supply = Supply(
            grade=grader,
            more=take,
            total=self.processes.total,
            gather=self.processes.gather,
            graded=self.reward.graded,
        )
        groups = self.sampler.draw(take(config.training.prompts_per_step), context, supply)
        for report in self.stream.unreported():
            self.display.note(report)
        sampled = self.processes.total(sum(len(group.responses) for group in groups))
        state.budget += sampled

        # --- Grade every response that the sampler did not already have graded.
        with self._stopwatch.phase("reward"):
            scored = grader.score(groups)

        # --- Measure all groups, before any is dropped.
        plan = self.sampler.plan()
        metrics = group_metrics(scored, self.processes, graded=self.reward.graded, reasons=plan.untouched)
        n_groups = self.processes.total(len(scored))
        state.nothing_to_move.note(metrics, n_groups)
        if due:
            with self._stopwatch.phase("evaluate"):
                metrics |= view_divergence(self.policy, groups, self.processes)
                self._output.samples(step + 1, scored)

        # --- Guards drop groups, or some of their responses.
        dropped = checked_drops(self.sampler, scored, self.sampler.guard(scored, context, supply))
        metrics |= drop_metrics(scored, dropped, self.processes, reasons=plan.dropped)
        remaining = [group for group in map(ScoredGroup.without, scored, dropped) if group.grades]
        rewards: dict[int, Sequence[float]] = {}
        for of_process in self.processes.gather({group.group.index: group.rewards for group in remaining}):
            rewards |= of_process
        note = state.empty_steps.note(step + 1, empty=not rewards)
        if note is not None:
            self.display.note(note)

        # --- Advantages see the rewards of all processes. A replay adds responses of earlier steps.
        in_order = [reward for index in sorted(rewards) for reward in rewards[index]]
        train_groups = [train_group(group, self.objective.advantage, in_order) for group in remaining]
        replayed = self._replay.draw(train_groups, step)

        # --- Update. The optimiser steps see the gradients of all processes.
        if rewards or self._replay.drawn:
            with self._stopwatch.phase("update"):
                metrics |= self.updater.run([*train_groups, *replayed], step=step, progress=progress)
            self._replay.keep(train_groups, self.updater.old_logp, step)
        metrics |= self._replay.metrics(sum(len(group.advantages) for group in train_groups))
        metrics |= self._decoder_gaps.metrics(self.processes)

        # --- Evaluate if it is due, and pass all metrics to the strategies with state.
        state.step += 1
        control = self._read_control()
        metrics |= {
            "sampled_responses": sampled + control.get("control/responses", 0.0),
            "budget": float(state.budget),
            "bad_examples": float(self.stream.bad),
            "lr": self.schedule.begin(state.step),
        }
        named = {f"train/{name}": value for name, value in metrics.items()} | control
        if due:
            return named | self.evaluate(named)
        self._observe(named)
        return named

    def evaluate(self, metrics: Mapping[str, float] | None = None) -> dict[str, float]:
        """Evaluate and return the metrics; strategies with state get them together with those of the step before.

        Args:
            metrics: Those of the step that the evaluation follows; None before the first step, where the control probe
                is read as well.
        """
        with self._stopwatch.phase("evaluate"):
            evaluated = self._evaluation.metrics(self.step)
        if metrics is None:
            evaluated |= self._read_control()
        self._observe({**(metrics or {}), **evaluated})
        return evaluated

    def _read_control(self) -> dict[str, float]:
        """Return the metrics of the control probe, if a strategy reads it and it is due; its responses cost budget."""
        if self._control is None or not self._control.is_due(self.step):
            return {}
        with self._stopwatch.phase("control"):
            metrics = self._control.metrics(self.step)
        self._state.budget += int(metrics["control/responses"])
        return metrics

    def _observe(self, metrics: Mapping[str, float]) -> None:
        for strategy in self._stateful.values():
            observe_all(strategy, metrics)

    def save(self) -> Path:
        """Write a checkpoint of the current step.

        Raises:
            CheckpointError: If the disk refuses.
        """
        folder = self._state.save(self.run, self.policy)
        self._call("on_save")
        return folder

    def _call(self, event: str, metrics: Mapping[str, float] | None = None) -> None:
        """Call the callbacks for an event."""
        best = self._state.best
        state = TrainerState(
            global_step=self.step,
            max_steps=self.config.training.steps,
            best_metric=None if best.step is None else best.value,
            best_model_checkpoint=None if best.step is None else str(best.checkpoint(self.run)),
            is_world_process_zero=self.processes.main,
        )
        self._callbacks(event, self.config, state, policy=self.policy, metrics=metrics or {})

    def _call_after_step(self, metrics: Mapping[str, float], *, evaluated: bool) -> tuple[bool, bool]:
        """Call the callbacks after a step; return whether one wants a checkpoint, and whether one ends the training.

        Of a callback that fails no step is lost: it is saved first, unless other processes wait elsewhere.
        """
        try:
            self._call("on_step_end", metrics)
            if evaluated:
                of_evaluation = {name: value for name, value in metrics.items() if not name.startswith("train/")}
                self._call("on_evaluate", of_evaluation)
        except Exception:  # whatever a user's code raises is raised again
            if self.processes.count == 1:
                self._state.save(self.run, self.policy)
            raise
        control = self._callbacks.control
        saving, control.should_save = control.should_save, False
        return self.processes.any(saving), self.processes.any(control.should_training_stop)
