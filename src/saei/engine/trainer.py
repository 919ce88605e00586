"""The training loop: draw groups, grade them, take advantages, update; evaluate and checkpoint in between.

examples ─ sampler ─► groups ─ reward ─► scored groups ─ guards, advantage ─► train groups ─ loss ─► optimiser steps
                                                                    replay ─► those of earlier steps ─┘

The file is long because it tells the whole run, stage by stage, on one page; what each does is in the files beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saei.config.control_probe import steering_parts
from saei.config.run import RunConfig
from saei.data.in_memory import Examples
from saei.engine.advantages import advantage_metrics, with_statistics
from saei.engine.callbacks import CallbackHandler, check_callbacks
from saei.engine.components import build_components
from saei.engine.display import Display, PlainDisplay, SilentDisplay
from saei.engine.grader import StepGrader, rewards_of_all
from saei.engine.limits import WeightsApart
from saei.engine.measurements import Measurements
from saei.engine.metrics import drop_metrics, group_metrics, view_divergence
from saei.engine.notes import closing_notes, opening_notes
from saei.engine.objects import Model, take_objects
from saei.engine.output import RunOutput
from saei.engine.rescues import Rescues
from saei.engine.samples import group_sample, training_samples
from saei.engine.update_objective import labels
from saei.objectives.advantages.base import train_group
from saei.rewards.base import Reward
from saei.rewards.in_memory import RewardFunction
from saei.runtime.interrupt import Interrupted, StopRequest
from saei.runtime.run_dir import RunDir
from saei.runtime.samples import GroupSample
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
        check_callbacks(callbacks)

        # --- What the run is made of; `engine/components.py` builds and checks it.
        built = build_components(config, objects, resume)
        self.task, self.reward = built.strategies.task, built.strategies.reward
        self.sampler, self.objective = built.strategies.sampler, built.strategies.objective
        self.policy, self.updater, self.schedule = built.policy, built.updater, built.schedule
        self.processes = built.processes
        self.stream = built.data.stream
        self._state, self._replay, self._decoder_gaps = built.state, built.replay, built.decoder_gaps
        self._evaluation, self._control_probe, self._data = built.evaluation, built.control_probe, built.data
        self._held_out_groups = built.held_out_groups
        self._rescues = Rescues(config, self.policy, self.reward, self.processes)
        self._weights_apart = WeightsApart(labels(self.objective.weights).values())

        # --- The run's folder comes last, once everything else is known to work.
        config = self.config = config.model_copy(update={"task": self.task.pinned()})
        self.run = self.processes.once(lambda: RunDir.create(config)) if resume is None else resume
        if resume:
            self.processes.once(lambda: resume.record(config))
        scanned = self._data.scanned
        if scanned is not None:
            self.processes.once(lambda: scanned.write(self.run.path))

        # --- What shows, times, measures and calls as the run goes.
        if not self.processes.main:
            self.display = SilentDisplay()
        self._output = RunOutput(self.run, config, self.display, self.processes)
        self._stopwatch = Stopwatch(PHASES, on_phase=self.display.phase)
        self._measurements = Measurements(
            self._evaluation,
            self._control_probe,
            strategies=built.strategies.stateful,
            state=self._state,
            stopwatch=self._stopwatch,
        )
        self._callbacks = CallbackHandler(
            callbacks, config, run=self.run, policy=self.policy, state=self._state, processes=self.processes
        )

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
            self._show(self.run.notes)
            self._show(opening_notes(config, self.task, self.policy, self._data))
            if broken:
                self.display.note(f"{broken} broken lines of metrics.jsonl were left out.")
            self._callbacks.call("on_train_begin")

            # --- Evaluate the policy that training begins with.
            if self.step == 0:
                metrics = self._measurements.before_training() | self._keep_samples([])
                self._output.metrics(0, metrics | self._stopwatch.read())
                state.best.update(0, metrics)
                self._callbacks.call("on_evaluate", metrics)

            while self.step < config.training.steps:
                # --- Do a step, and write its metrics.
                with state.saved_on_failure(self.run, self.policy, updates=lambda: self.updater.updates):
                    metrics = self.train_step()
                self._output.metrics(self.step, metrics | self._stopwatch.read())

                # --- Write a checkpoint if it is due, or if the run stops here.
                evaluated = self._measurements.is_due(self.step)
                best = evaluated and state.best.update(self.step, metrics)
                saving, ending = self._callbacks.after_step(metrics, evaluated=evaluated)
                last = self.step == config.training.steps
                stopping = self.processes.any(stop.requested)
                problem = None if last else state.problem()
                due = self.step % config.output.checkpoint_every == 0
                if last or stopping or problem or due or best or saving or ending:
                    self.save()

                # --- Stop for a problem, for a signal, or because a callback says so.
                if problem is not None:
                    raise problem
                if stopping and not last:
                    raise Interrupted(f"Stopped after step {self.step} of {config.training.steps}.")
                if ending and not last:
                    self.display.note(f"A callback stopped the run after step {self.step} of {config.training.steps}.")
                    break
            self._callbacks.call("on_train_end")
            self._show(closing_notes(config, state.best, self.run, self.stream))

    def train_step(self) -> dict[str, float]:
        """Do one step, with the evaluation that is due after it, and return its metrics; nothing else is written."""
        config, state, step = self.config, self._state, self.step
        progress, evaluated = step / config.training.steps, self._measurements.is_due(step + 1)
        rank = [self.processes.rank] if self.processes.rank else []  # the first process is seeded like the only one
        seed_globals(derive(config.seed, "globals", step, *rank))

        # --- Draw. This process takes its share of the examples; the sampler draws responses from their clean views,
        #     and from the views that it makes of them.
        grader = StepGrader(self.reward)
        context = StepContext(
            policy=self.policy,
            progress=progress,
            sources=GroupSources(config.seed, "sample", step),
            phase=self._stopwatch.phase,
            traced=evaluated,
            answer=self.task.answer if self.task.oracle else None,
        )
        supply = Supply(
            grade=grader,
            more=self._take,
            total=self.processes.total,
            gather=self.processes.gather,
            graded=self.reward.graded,
        )
        groups = self.sampler.draw(self._take(config.training.prompts_per_step), context, supply)
        self._show(self.stream.unreported())
        sampled = self.processes.total(sum(len(group.responses) for group in groups))
        state.budget += sampled

        # --- Grade every response that the sampler did not already have graded.
        with self._stopwatch.phase("reward"):
            scored = grader.score(groups)

        # --- Measure all groups, before any is dropped.
        plan = self.sampler.plan()
        metrics = group_metrics(scored, self.processes, graded=self.reward.graded, reasons=plan.untouched)
        state.nothing_to_move.count(metrics, self.processes.total(len(scored)))
        with self._stopwatch.phase("evaluate"):
            metrics |= self._rescues.metrics(step, scored, evaluated=evaluated)
            if evaluated:
                metrics |= view_divergence(self.policy, groups, self.processes)

        # --- Guards drop groups, or some of their responses.
        dropped = checked_drops(self.sampler, scored, self.sampler.guard(scored, context, supply))
        metrics |= drop_metrics(scored, dropped, self.processes, reasons=plan.dropped)
        remaining = [group for group in map(ScoredGroup.without, scored, dropped) if group.grades]

        # --- Advantages see the rewards of all processes, and what they need of the policy that drew the responses. A
        #     replay adds responses of earlier steps.
        rewards = rewards_of_all(remaining, self.processes)
        note = state.empty_steps.count(step + 1, empty=not rewards)
        if note is not None:
            self.display.note(note)
        with self._stopwatch.phase("advantage"):
            remaining = [with_statistics(group, self.objective.advantage.needs, self.policy) for group in remaining]
            train_groups = [train_group(group, self.objective.advantage, rewards) for group in remaining]
            metrics |= advantage_metrics(train_groups, self.objective.advantage, rewards, self.processes)
        replayed = self._replay.draw(train_groups, step)

        # --- Keep a few groups for people to look at, before the update makes them those of an older policy.
        samples: list[GroupSample] = []
        if evaluated and self.processes.main:
            pictures = config.evaluation.adversarial_images
            tokenizer = self.policy.tokenizer
            samples = training_samples(step + 1, scored, dropped, train_groups, tokenizer=tokenizer, pictures=pictures)

        # --- Update. The optimiser steps see the gradients of all processes.
        if rewards or self._replay.drawn:
            with self._stopwatch.phase("update"):
                result = self.updater.run(
                    [*train_groups, *replayed], step=step, progress=progress, phase=self._stopwatch.phase
                )
            metrics |= result.metrics
            note = self._weights_apart.note(step + 1, result.metrics)
            self._show([note] if note is not None else [])
            self._replay.keep(train_groups, result.old_logp, step)
        metrics |= self._replay.metrics(sum(len(group.advantages) for group in train_groups))
        metrics |= self._decoder_gaps.metrics(self.processes)

        # --- Evaluate if it is due, and pass all metrics to the strategies with state.
        state.step += 1
        control_probe = self._measurements.read_control_probe()
        metrics |= {
            "sampled_responses": sampled + control_probe.get("control/responses", 0.0),
            "budget": float(state.budget),
            "bad_examples": float(self.stream.bad),
            "lr": self.schedule.begin(state.step),
        }
        if steering_parts(self.config):
            metrics["entropy_steered"] = 1.0  # for whoever reads the metrics: no evidence against collapse
        measured = self._measurements.after_step(
            {f"train/{name}": value for name, value in metrics.items()} | control_probe
        )
        return measured | (self._keep_samples(samples) if evaluated else {})

    def evaluate(self) -> dict[str, float]:
        """Evaluate the policy as it is and return the metrics; nothing is written, and no strategy takes note."""
        return self._evaluation.metrics(self.step)

    def save(self) -> Path:
        """Write a checkpoint of the current step.

        Raises:
            CheckpointError: If the disk refuses.
        """
        self.display.phase("checkpoint")
        folder = self._state.save(self.run, self.policy)
        self.display.phase(None)
        self._callbacks.call("on_save")
        return folder

    def _keep_samples(self, of_training: Sequence[GroupSample]) -> dict[str, float]:
        """Draw the held-out groups and write them with those of the training; what steers the training is not told.

        With them goes which held-out examples were answered rightly. The first process does it, while the others wait.

        Returns:
            ``samples/responses``, how many responses were drawn to be looked at.
        """

        def keep() -> int:
            held_out = self._held_out_groups.draw(self.step)
            samples = [
                group_sample(self.step, "held-out", number, group, tokenizer=self.policy.tokenizer)
                for number, group in enumerate(held_out)
            ]
            self._output.samples(self.step, [*samples, *of_training])
            return sum(len(group.grades) for group in held_out)

        self._output.answers(self.step, self._evaluation.answers)
        with self._stopwatch.phase("samples"):
            return {"samples/responses": float(self.processes.once(keep))}

    def _take(self, n: int) -> list[View]:
        """Return this process's share of the next n views."""
        with self._stopwatch.phase("data"):
            return self.stream.take(n)

    def _show(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.display.note(note)
