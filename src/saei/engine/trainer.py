"""The training loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saei.config import BUILTIN, RunConfig
from saei.data.base import Task, Template
from saei.engine import checkpoint
from saei.engine.display import Display, PlainDisplay
from saei.engine.group_metrics import group_metrics, view_divergence
from saei.engine.interrupt import Interrupted, StopRequest
from saei.engine.rundir import RunDir
from saei.engine.samples import keep_samples
from saei.engine.seeding import derive, seed_globals
from saei.engine.sifting import sift_training
from saei.engine.stopwatch import Stopwatch
from saei.engine.stream import ViewStream
from saei.engine.update import Updater
from saei.errors import CheckpointError, ConfigError
from saei.evaluation.accuracy import accuracy_metrics
from saei.evaluation.fresh import answer
from saei.evaluation.probe import probe_metrics
from saei.interventions.stats import check_needs
from saei.objectives.advantages import advantages
from saei.objectives.base import Objective
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.samplers.base import Sampler, SamplingContext
from saei.strategy import observe_all, restore, state_of
from saei.types import Grade, Group, Response, ScoredGroup, View

LARGE = 50_000_000
TINY_LR = 1e-4
"""Parameters from which a learning rate of this size is probably a built-in default that was forgotten."""

PROBE_SEED = 20_512
"""Seed of the probe's draws: the same for every method and run, whatever the run's seed."""


class Trainer:
    """Trains a policy: draw groups, grade them, take advantages, update; evaluate and checkpoint in between.

    Everything random is seeded by the run's seed and the step, so that equal configurations give equal runs on the
    same machine, and a resumed run is the run that was never stopped.

    Args:
        config: The run's configuration.
        resume: A run to go on with from its newest checkpoint; None starts a new one.
        display: Where progress is shown.

    Raises:
        SaeiError: For whatever in configuration, model, data or checkpoint cannot work, before any long work.
    """

    def __init__(self, config: RunConfig, *, resume: RunDir | None = None, display: Display | None = None) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from transformers import get_scheduler

        self.config = config
        self.display = display or PlainDisplay()
        if resume is None:
            RunDir.check_new(config)
        self.task: Task = config.task.build()
        self.reward: Reward = config.reward.build()
        self.sampler: Sampler = config.sampler.build()
        self.objective: Objective = config.objective.build()
        template: Template = config.template.build()
        self._stateful = {"sampler": self.sampler, "objective": self.objective, "reward": self.reward}
        if self.objective.token_selector is not None:
            check_needs(self.objective.token_selector.needs)
        start = checkpoint.latest(resume.checkpoints) if resume else None
        model = config.model if start is None else config.model.model_copy(update={"path": str(start)})
        self.policy = Policy.load(model, template, sampling=config.sampling, entropy=config.entropy)
        reference = None
        if "reference" in self.objective.needs:
            reference = Policy.load(config.model, template, sampling=config.sampling, entropy=config.entropy)
        AcceleratorState._reset_state()  # precision is a process-wide state, which an earlier run has set
        self.accelerator = Accelerator(
            mixed_precision=config.training.mixed_precision,
            cpu=self.policy.device.type == "cpu",
            log_with=list(config.output.trackers) or None,
            project_dir=str(config.output.root),
        )
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                "saei trains in one process.",
                reason=f"{self.accelerator.num_processes} were launched.",
                remedy="Start it without a launcher.",
            )
        parameters = [parameter for parameter in self.policy.module.parameters() if parameter.requires_grad]
        self.optimizer: Any = torch.optim.AdamW(
            parameters,
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
        )
        self.scheduler: Any = get_scheduler(
            config.optimizer.schedule if config.optimizer.schedule != "constant" else "constant_with_warmup",
            self.optimizer,
            num_warmup_steps=config.optimizer.warmup_steps,
            num_training_steps=config.training.steps * _updates_per_step(config),
        )
        self.policy.module, self.optimizer, self.scheduler = self.accelerator.prepare(
            self.policy.module, self.optimizer, self.scheduler
        )
        self.updater = Updater(
            self.policy,
            self.objective,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            accelerator=self.accelerator,
            config=config.training,
            max_grad_norm=config.optimizer.max_grad_norm,
            reference=reference,
            seed=config.seed,
        )
        self.stream = ViewStream(self.task, self.policy, seed=config.seed, max_bad_share=config.training.max_bad_share)
        self._sifted = sift_training(self.task, self.policy) if config.training.sift else None
        if self._sifted is not None:
            self.stream.admit("train", self._sifted.looked)
        self.step = 0
        self._stopwatch = Stopwatch()
        self.sampler.check(self.policy, self.stream.preflight())
        self._held_out = self.stream.held_out(config.evaluation.examples)
        self._probe = self.stream.held_out(config.evaluation.probe_examples)
        if start is not None:
            self._load(start)
        config = self.config = config.model_copy(update={"task": self.task.pinned()})
        self.run = resume or RunDir.create(config)
        if resume:
            resume.record(config)
        if self._sifted is not None:
            self._sifted.write(self.run.path)

    def train(self) -> Path:
        """Train up to ``training.steps`` and return the run's folder.

        Raises:
            Interrupted: If a signal asked to stop; a checkpoint was written.
        """
        config = self.config
        self.run.rewind(self.step if self.step else -1)
        if config.output.trackers:
            self.accelerator.init_trackers(self.run.path.name)
        heard = "Stopping after this step and its checkpoint. Once more stops at once."
        with StopRequest(lambda: self.display.note(heard)) as stop, self.display.open(config, self.run.path):
            for note in (*self._notes(), *self.stream.unreported()):
                self.display.note(note)
            if self.step == 0:
                self._write(self._evaluate())
            while self.step < config.training.steps:
                self._write(self._train_step())
                last = self.step == config.training.steps
                if last or stop.requested or self.step % config.output.checkpoint_every == 0:
                    self.save()
                if stop.requested and not last:
                    raise Interrupted(f"Stopped after step {self.step} of {config.training.steps}.")
            if self.stream.bad:
                self.display.note(f"Unusable examples were met and skipped {self.stream.bad} times.")
            if self.stream.too_long:
                self.display.note(f"{self.stream.too_long} examples were left out for the length of their prompts.")
        if config.output.trackers:
            self.accelerator.end_training()
        return self.run.path

    def save(self) -> Path:
        """Write a checkpoint of the current step.

        Raises:
            CheckpointError: If the disk refuses.
        """
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stream": self.stream.state_dict(),
            **{name: state_of(strategy) for name, strategy in self._stateful.items()},
        }
        keep = self.config.output.keep_checkpoints
        return checkpoint.save(self.run.checkpoints, self.step, self.policy, state, keep=keep)

    def _notes(self) -> list[str]:
        """Return what the user should know before it starts."""
        notes = list(self.policy.parts.notes) if self.config.model.path != BUILTIN else []
        notes += self.task.notes()
        if self._sifted is not None:
            notes.append(self._sifted.note())
        size = sum(parameter.numel() for parameter in self.policy.model.parameters())
        if size > LARGE and self.config.optimizer.lr >= TINY_LR:
            notes.append(
                f"optimizer.lr={self.config.optimizer.lr:g} suits the built-in model; a model of "
                f"{size / 1e6:.0f} million parameters is usually trained at about 1e-6: --set optimizer.lr=1e-6."
            )
        return notes

    def _load(self, folder: Path) -> None:
        state = checkpoint.load_state(folder)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            for parameter, moments in self.optimizer.state.items():  # AdamW loads moments of any shape
                if moments["exp_avg"].shape != parameter.shape:
                    raise ValueError(f"{list(moments['exp_avg'].shape)} moments for {list(parameter.shape)} weights")
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                "A checkpoint has to belong to the model that is trained.",
                reason=f"{folder}: {error}.",
                remedy="Resume the run that wrote it.",
            ) from error
        self.stream.load_state_dict(state["stream"])
        for name, strategy in self._stateful.items():
            restore(strategy, state[name])
        self.step = int(state["step"])

    def _train_step(self) -> dict[str, float]:
        config, step = self.config, self.step
        progress = step / config.training.steps
        seed_globals(derive(config.seed, "globals", step))
        with self._stopwatch.phase("data"):
            views = self.stream.take(config.training.prompts_per_step)
        for report in self.stream.unreported():
            self.display.note(report)
        context = SamplingContext(
            policy=self.policy,
            grade=self._grade,
            progress=progress,
            generator=torch.Generator().manual_seed(derive(config.seed, "sample", step)),
            phase=self._stopwatch.phase,
        )
        groups = self.sampler.draw(views, context)
        with self._stopwatch.phase("reward"):
            scored = [ScoredGroup(group, tuple(self._grade_group(group))) for group in groups]
        found = group_metrics(scored)
        evaluating = (step + 1) % config.evaluation.every == 0 or step + 1 == config.training.steps
        if evaluating:
            with self._stopwatch.phase("evaluate"):
                found |= view_divergence(self.policy, groups)
                keep_samples(self.run, step + 1, scored, images=config.evaluation.adversarial_images)
        guarded = [self.sampler.guard(one, context) for one in scored]
        kept = [one for one in guarded if one is not None and one.grades]
        found["dropped"] = 1 - len(kept) / len(scored)
        if kept:
            with self._stopwatch.phase("update"):
                train_groups = advantages(kept, self.objective.config.advantage)
                found |= self.updater.run(train_groups, step=step, progress=progress)
        for strategy in self._stateful.values():
            observe_all(strategy, found)
        self.step += 1
        metrics = {f"train/{name}": value for name, value in found.items()}
        metrics["train/bad_examples"] = float(self.stream.bad)
        metrics["train/lr"] = float(self.scheduler.get_last_lr()[0])
        return metrics | (self._evaluate() if evaluating else {})

    def _evaluate(self) -> dict[str, float]:
        """Measure sampled accuracy and the collapse probe on held-out examples, clean view."""
        config = self.config.evaluation
        with self._stopwatch.phase("evaluate"):
            answered = answer(
                self.policy,
                self.reward,
                self._held_out,
                responses=config.responses,
                sampling=self.config.sampling,
                seed=derive(self.config.seed, "evaluate", self.step),
            )
            probed = answer(
                self.policy,
                self.reward,
                self._probe,
                responses=config.probe_responses,
                sampling=self.config.sampling.model_copy(update={"temperature": 1.0}),
                seed=derive(PROBE_SEED, self.step),
            )
        accuracy = {f"eval/{name}": value for name, value in accuracy_metrics(answered).items()}
        return accuracy | {f"probe/{name}": value for name, value in probe_metrics(probed, self.task).items()}

    def _write(self, metrics: dict[str, float]) -> None:
        metrics |= self._stopwatch.read()
        self.run.append({"step": self.step, **metrics})
        if self.config.output.trackers:
            self.accelerator.log(metrics, step=self.step)
        self.display.step(self.step, metrics)

    def _grade(self, view: View, responses: Sequence[Response]) -> Sequence[Grade]:
        return [self.reward.grade(view.example, one.text, truncated=one.truncated) for one in responses]

    def _grade_group(self, group: Group) -> Sequence[Grade]:
        return self._grade(group.views[0], group.responses)


def _updates_per_step(config: RunConfig) -> int:
    training = config.training
    size = training.minibatch_groups or training.prompts_per_step
    return training.ppo_epochs * -(-training.prompts_per_step // size)
