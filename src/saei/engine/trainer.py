"""The training loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from saei.config.run import RunConfig
from saei.config.sections import SamplingConfig
from saei.config.strategy import observe_all, restore, state_of
from saei.data.base import Task, Template, check_data
from saei.engine import checkpoint
from saei.engine.display import Display, PlainDisplay, SilentDisplay
from saei.engine.empty_steps import EmptySteps
from saei.engine.grader import StepGrader
from saei.engine.imageless import Imageless
from saei.engine.metrics import drop_metrics, group_metrics, view_divergence
from saei.engine.samples import keep_samples
from saei.engine.schedule import Schedule
from saei.engine.update import Updater, check_update
from saei.errors import CheckpointError, TrainingError, cause_of
from saei.evaluation.accuracy import accuracy_metrics
from saei.evaluation.answers import Answered, answer
from saei.evaluation.probe import probe_metrics
from saei.intake.scan import CACHE, ExampleReport, ScanResult, check_end, scan
from saei.intake.stream import ViewStream
from saei.objectives.advantages.base import train_group
from saei.objectives.base import Objective
from saei.policy import Policy
from saei.policy.decoder import DecoderGaps
from saei.policy.load.location import BUILTIN_FOLDERS
from saei.policy.load.weights import Parts, load_parts
from saei.rewards.base import Reward
from saei.runtime.files import check_folder
from saei.runtime.interrupt import Interrupted, StopRequest
from saei.runtime.launcher import first_process
from saei.runtime.processes import claim_device, launch_options, processes_of
from saei.runtime.progress import progress
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import GroupSources, derive, seed_globals
from saei.runtime.stopwatch import PHASES, Stopwatch
from saei.runtime.trackers import Trackers, check_trackers
from saei.samplers.base import Sampler, StepContext, Supply
from saei.types import ScoredGroup, View

LARGE = 50_000_000
TINY_LR = 1e-4
"""Parameters from which a learning rate of this size is probably a built-in default that was forgotten."""

PROBE_SEED = 20_512
"""Seed of the probe's draws: the same for every method and run, whatever the run's seed."""


class Trainer:
    """Trains a policy: draw groups, grade them, take advantages, update; evaluate and checkpoint in between.

    Everything random is seeded by the run's seed and the step, so that equal configurations give equal runs on the
    same machine, and a resumed run is the run that was never stopped. Started by a launcher, this is one of several
    processes that train together; the first of them writes.

    Args:
        config: The run's configuration.
        resume: A run to go on with from its newest checkpoint; None starts a new one.
        display: Where progress is shown.
        parts: The model's parts where they are loaded already, as ``config.model`` says; None loads them.

    Raises:
        SaeiError: For whatever in configuration, model, data or checkpoint cannot work, before any long work.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        resume: RunDir | None = None,
        display: Display | None = None,
        parts: Parts | None = None,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self.config = config
        self.display = display or PlainDisplay()
        if resume is None:
            RunDir.check_new(config)
            check_folder(config.output.root)
        elif first_process():
            resume.lock.acquire()  # before its newest checkpoint is looked for, which another process may delete
        check_trackers(config.output.trackers)
        self.task: Task = config.task.build()
        if config.training.sift:
            check_end(self.task)
        self.reward: Reward = config.reward.build()
        self.sampler: Sampler = config.sampler.build()
        self.objective: Objective = config.objective.build()
        template: Template = config.template.build()
        self._stateful = {"sampler": self.sampler, "objective": self.objective, "reward": self.reward}
        check_update(self.objective)
        check_data(self.task)
        start = checkpoint.start_of(resume, config) if resume else None
        claim_device()
        seed_globals(derive(config.seed, "adapter"))  # fresh adapters are drawn from the global generator
        model = (
            config.model if start is None else config.model.model_copy(update={"path": str(start), "revision": None})
        )
        parts = load_parts(model) if parts is None else parts
        self.policy = Policy.around(parts, model, template, sampling=config.sampling, entropy=config.entropy)
        self._decoder_gaps = DecoderGaps(config.training.max_decoder_gap)
        self.policy.decoder, self.policy.on_decoded = config.decoder.build(), self._decoder_gaps
        AcceleratorState._reset_state()  # precision is a process-wide state, which an earlier run has set
        self.accelerator = Accelerator(
            mixed_precision=config.training.mixed_precision,
            cpu=self.policy.device.type == "cpu",
            **launch_options(),
        )
        self.processes = processes_of(self.accelerator, config)
        if not self.processes.main:
            self.display = SilentDisplay()
        parameters = [parameter for parameter in self.policy.module.parameters() if parameter.requires_grad]
        self.optimizer: Any = torch.optim.AdamW(
            parameters,
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
        )
        self.schedule = Schedule(self.optimizer, config.optimizer, config.training)
        self.policy.module, self.optimizer = self.accelerator.prepare(self.policy.module, self.optimizer)
        reference = None
        if "reference" in self.objective.needs:
            reference = self._reference(template)
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
        self.stream = ViewStream(
            self.task,
            self.policy,
            seed=config.seed,
            max_bad_share=config.training.max_bad_share,
            reward=self.reward,
            processes=self.processes,
        )
        self._sifted = self._sift() if config.training.sift else None
        self.step = 0
        self.budget = 0
        self._imageless = Imageless(config.training.max_untouched)
        self._empty_steps = EmptySteps(config.training.max_empty_steps)
        self._stopwatch = Stopwatch(PHASES)
        self._trackers: Trackers | None = None
        self.sampler.check(self.policy, self.stream.preflight())
        evaluation = config.evaluation
        views = self.stream.held_out(max(evaluation.examples, evaluation.probe_examples))
        self._held_out, self._probe = views[: evaluation.examples], views[: evaluation.probe_examples]
        if start is not None:
            self._load(start)
        config = self.config = config.model_copy(update={"task": self.task.pinned()})
        self.run = self.processes.once(lambda: RunDir.create(config)) if resume is None else resume
        if resume:
            self.processes.once(lambda: resume.record(config))
        sifted = self._sifted
        if sifted is not None:
            self.processes.once(lambda: sifted.write(self.run.path))

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
            if self._trackers is not None:
                self._trackers.finish()
                self._trackers = None
            self.run.lock.release()
        return self.run.path

    def _train(self) -> None:
        config = self.config
        broken = self.processes.once(lambda: self.run.rewind(self.step if self.step else -1))
        self.processes.once(self._open_trackers)
        heard = "Stopping after this step and its checkpoint. Once more stops at once."
        with StopRequest(lambda: self.display.note(heard)) as stop, self.display.open(config, self.run.path):
            for note in (*self._notes(), *self.stream.unreported()):
                self.display.note(note)
            if broken:
                self.display.note(f"{broken} broken lines of metrics.jsonl and samples.jsonl were left out.")
            if self.step == 0:
                self._write(self._evaluate())
            while self.step < config.training.steps:
                with self._kept_on_failure():
                    metrics = self.train_step()
                self._write(metrics)
                last = self.step == config.training.steps
                stopping = self.processes.any(stop.requested)
                problem = None if last else self._imageless.problem() or self._empty_steps.problem()
                if last or stopping or problem or self.step % config.output.checkpoint_every == 0:
                    self.save()
                if problem is not None:
                    raise problem
                if stopping and not last:
                    raise Interrupted(f"Stopped after step {self.step} of {config.training.steps}.")
            if self.stream.bad:
                self.display.note(f"Unusable examples were met and skipped {self.stream.bad} times.")
            if self.stream.too_long:
                self.display.note(f"{self.stream.too_long} examples were left out for the length of their prompts.")

    def save(self) -> Path:
        """Write a checkpoint of the current step.

        Raises:
            CheckpointError: If the disk refuses.
        """
        return self._save(self._state())

    def _state(self) -> dict[str, Any]:
        """Return all that a checkpoint keeps besides the weights and the optimizer's moments."""
        own = {name: state_of(strategy) for name, strategy in self._stateful.items()}
        first, *others = self.processes.gather(own)
        return {
            "step": self.step,
            "stream": self.stream.state_dict(),
            "budget": self.budget,
            "imageless": self._imageless.state_dict(),
            "empty_steps": self._empty_steps.state_dict(),
            "others": others,
            **first,
        }

    def _save(self, state: Mapping[str, Any]) -> Path:
        state = {**state, "optimizer": self.optimizer.state_dict()}
        step, keep = state["step"], self.config.output.keep_checkpoints
        return self.processes.once(lambda: checkpoint.save(self.run.checkpoints, step, self.policy, state, keep=keep))

    @contextmanager
    def _kept_on_failure(self) -> Iterator[None]:
        """Around a step: where it fails before its update, write the checkpoint that the step began from.

        Most failures are those of other people's code: a reward, a task, a sampler. All steps before are kept so, and
        the step is done again, bit for bit, once the code is mended. Several processes write none, since the others
        wait in the middle of theirs.

        Raises:
            TrainingError: If that code asked the process to exit.
        """
        before = copy.deepcopy(self._state()) if self.processes.count == 1 else None
        updates = self.updater.updates
        try:
            yield
        except (Exception, SystemExit) as error:  # whatever that code raises; it is raised on
            if before is not None and self.updater.updates == updates:
                written = map(checkpoint.step_of, checkpoint.found(self.run.checkpoints))
                if before["step"] not in (0, *written):
                    with suppress(CheckpointError):  # what the step raised says more than a full disk
                        self._save(before)
            if isinstance(error, SystemExit):
                raise TrainingError(
                    "Only the user ends a run.",
                    reason=f"{cause_of(error)}.",
                    remedy="Take the call of sys.exit out of that code, and resume the run.",
                ) from error
            raise

    def _reference(self, template: Template) -> Policy:
        """Return the policy that the run began with: under LoRA the same model with its adapters switched off."""
        config = self.config
        if config.model.lora is not None:
            return self.policy.without_adapter()
        reference = Policy.load(config.model, template, sampling=config.sampling, entropy=config.entropy)
        reference.module = self.accelerator.prepare_model(reference.module, evaluation_mode=True)
        return reference

    def _sift(self) -> ScanResult:
        """Look at all training examples before the first step; of several processes the first does it for all."""

        def looked() -> list[ExampleReport]:
            with progress("Looking at the data") as on_progress:
                return scan(self.task, self.policy, "train", reward=self.reward, cache=CACHE, on_progress=on_progress)

        found = ScanResult("train", self.processes.once(looked))
        self.stream.admit("train", found.reports)
        return found

    def _notes(self) -> list[str]:
        """Return what the user should know before it starts."""
        notes = list(self.policy.parts.notes) if self.config.model.path not in BUILTIN_FOLDERS else []
        notes += self.run.notes
        notes += self.task.notes()
        if self._sifted is not None:
            notes.append(self._sifted.note())
        size = sum(parameter.numel() for parameter in self.policy.model.parameters() if parameter.requires_grad)
        if size > LARGE and self.config.optimizer.lr >= TINY_LR:
            notes.append(
                f"optimizer.lr={self.config.optimizer.lr:g} suits the built-in model; {size / 1e6:.0f} million "
                "parameters are usually trained at about 1e-6: --set optimizer.lr=1e-6."
            )
        return notes

    def _load(self, folder: Path) -> None:
        state = checkpoint.load_state(folder)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
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
        own = checkpoint.state_of_rank(state, list(self._stateful), self.processes)
        for name, strategy in self._stateful.items():
            restore(strategy, own[name])
        self.budget = int(state["budget"])
        self._imageless.load_state_dict(state["imageless"])
        self._empty_steps.load_state_dict(state.get("empty_steps", {"in_a_row": 0}))
        self.step = int(state["step"])

    def train_step(self) -> dict[str, float]:
        """Do one step, with the evaluation that is due after it, and return its metrics; nothing else is written."""
        config, step = self.config, self.step
        progress = step / config.training.steps
        rank = [self.processes.rank] if self.processes.rank else []  # the first process is seeded like the only one
        seed_globals(derive(config.seed, "globals", step, *rank))
        grader = StepGrader(self.reward)

        def take(n: int) -> list[View]:
            with self._stopwatch.phase("data"):
                return self.stream.take(n)

        context = StepContext(
            policy=self.policy,
            progress=progress,
            sources=GroupSources(config.seed, "sample", step),
            phase=self._stopwatch.phase,
        )
        supply = Supply(grade=grader, more=take, total=self.processes.total, graded=self.reward.graded)
        groups = self.sampler.draw(take(config.training.prompts_per_step), context, supply)
        for report in self.stream.unreported():
            self.display.note(report)
        with self._stopwatch.phase("reward"):
            scored = grader.score(groups)
        found = group_metrics(scored, self.processes, graded=self.reward.graded)
        self._imageless.note(found, self.processes.total(len(scored)))
        sampled = self.processes.total(sum(len(group.responses) for group in groups))
        self.budget += sampled
        evaluating = (step + 1) % config.evaluation.every == 0 or step + 1 == config.training.steps
        if evaluating:
            with self._stopwatch.phase("evaluate"):
                found |= view_divergence(self.policy, groups, self.processes)
                if self.processes.main:
                    self._keep_samples(scored)
        dropped = self.sampler.guard(scored, context, supply)
        found |= drop_metrics(scored, dropped, self.processes)
        kept = [left for one, drops in zip(scored, dropped, strict=True) if (left := one.without(drops)).grades]
        rewards = self.processes.gather([one.rewards for one in kept])
        note = self._empty_steps.note(step + 1, empty=not any(rewards))
        if note is not None:
            self.display.note(note)
        if any(rewards):
            with self._stopwatch.phase("update"):
                pooled = [reward for part in rewards for own in part for reward in own]
                train_groups = [train_group(one, self.objective.advantage, pooled) for one in kept]
                found |= self.updater.run(train_groups, step=step, progress=progress)
                self.policy.weights_changed()
        found |= self._decoder_gaps.metrics(self.processes)
        for strategy in self._stateful.values():
            observe_all(strategy, found)
        self.step += 1
        metrics = {f"train/{name}": value for name, value in found.items()}
        metrics["train/sampled_responses"] = float(sampled)
        metrics["train/budget"] = float(self.budget)
        metrics["train/bad_examples"] = float(self.stream.bad)
        metrics["train/lr"] = self.schedule.begin(self.step)
        return metrics | (self._evaluate() if evaluating else {})

    def _keep_samples(self, scored: Sequence[ScoredGroup]) -> None:
        """Keep a few groups to be looked at; a disk that refuses them costs the pictures, not the run."""
        try:
            keep_samples(self.run, self.step + 1, scored, images=self.config.evaluation.adversarial_images)
        except OSError as error:
            self.display.note(f"The samples of step {self.step + 1} are not kept: {self.run.path}: {error.strerror}.")

    def _open_trackers(self) -> None:
        if self.config.output.trackers:
            self._trackers = Trackers(self.run.path, self.config, self.display.note)

    def _evaluate(self) -> dict[str, float]:
        """Measure sampled accuracy and the collapse probe on held-out examples, clean view."""
        config = self.config.evaluation
        with self._stopwatch.phase("evaluate"):
            seed = derive(self.config.seed, "evaluate", self.step)
            answered = self._answer(self._held_out, config.responses, self.config.sampling, seed)
            whole = self.config.sampling.model_copy(update={"temperature": 1.0})
            probed = self._answer(self._probe, config.probe_responses, whole, derive(PROBE_SEED, self.step))
        accuracy = {f"eval/{name}": value for name, value in accuracy_metrics(answered).items()}
        return accuracy | {f"probe/{name}": value for name, value in probe_metrics(probed, self.task).items()}

    def _answer(self, views: Sequence[View], responses: int, sampling: SamplingConfig, seed: int) -> list[Answered]:
        return answer(
            self.policy,
            self.reward,
            views,
            responses=responses,
            sampling=sampling,
            seed=seed,
            processes=self.processes,
        )

    def _write(self, metrics: dict[str, float]) -> None:
        metrics |= self._stopwatch.read()
        self.processes.once(lambda: self._record(metrics))
        self.display.step(self.step, metrics)

    def _record(self, metrics: Mapping[str, float]) -> None:
        self.run.lock.check()
        self.run.append({"step": self.step, **metrics})
        if self._trackers is not None:
            self._trackers.log(metrics, self.step)
