"""What happens before the first step, whichever engine trains: strategies, policy and data, each checked in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saei.config.run import RunConfig
from saei.config.sections import ModelConfig
from saei.config.strategy import Strategy
from saei.data.base import Split, Task, Template, check_data
from saei.engine.combinations import check_combinations
from saei.engine.limits import NothingToMove
from saei.engine.update import check_update
from saei.errors import DataError
from saei.intake.reports import ExampleReport
from saei.intake.scan import CACHE, ScanResult, check_end, scan
from saei.intake.stream import PREFLIGHT, ViewStream
from saei.objectives.base import Objective
from saei.policy import Policy
from saei.policy.load.weights import Parts, load_parts
from saei.rewards.base import Reward
from saei.runtime.files import check_folder
from saei.runtime.processes import Processes, claim_device, launch_options, processes_of
from saei.runtime.progress import progress
from saei.runtime.run_dir import RunDir
from saei.runtime.seeds import derive, seed_globals
from saei.runtime.trackers import check_trackers
from saei.samplers.base import Sampler
from saei.views import needs_picture


@dataclass(frozen=True, eq=False, slots=True)
class Strategies:
    """The pluggable parts of a run, built and checked as far as that needs no model."""

    task: Task
    template: Template
    reward: Reward
    sampler: Sampler
    objective: Objective

    @property
    def stateful(self) -> dict[str, Strategy]:
        """Those that see metrics and whose state is in checkpoints, by their names there."""
        return {"sampler": self.sampler, "objective": self.objective, "reward": self.reward}


@dataclass(frozen=True, eq=False, slots=True)
class Data:
    """Where views come from, and the scan of all examples before training; None if there was none."""

    stream: ViewStream
    scanned: ScanResult | None


def check_output(config: RunConfig, *, new: bool = True) -> None:
    """Refuse a run whose output could not be written.

    Raises:
        SaeiError: If the folder cannot be made, a new run's exists, or a tracker is not installed.
    """
    if new:
        RunDir.check_new(config)
        check_folder(config.output.root)
    check_trackers(config.output.trackers)


def build_strategies(
    config: RunConfig,
    splits: Sequence[Split] = ("train", "eval"),
    *,
    task: Task | None = None,
    reward: Reward | None = None,
) -> Strategies:
    """Build a run's strategies and refuse whatever in them and in the data needs no weights to be refused.

    Args:
        config: The run's configuration.
        splits: The splits of the task that the run reads.
        task: The task where it is built already.
        reward: The reward, likewise.

    Raises:
        SaeiError: Naming what cannot work.
    """
    strategies = Strategies(
        task=config.task.build() if task is None else task,
        template=config.template.build(),
        reward=config.reward.build() if reward is None else reward,
        sampler=config.sampler.build(),
        objective=config.objective.build(),
    )
    if config.training.sift:
        check_end(strategies.task)
    check_update(strategies.objective)
    check_combinations(config, strategies)
    check_data(strategies.task, splits)
    if not config.training.sift:  # which decodes each picture once, and names what cannot be moved afterwards
        _check_movable(config, strategies)
    return strategies


def _check_movable(config: RunConfig, strategies: Strategies) -> None:
    """Refuse data in which nothing can be moved, where the first examples show this without a policy.

    The views of these examples are looked at again once there is a policy: tokens decide about some of them.

    Raises:
        DataError: If none of the first examples has anything to move.
    """
    if any(_need_picture(part) for part in (strategies.sampler, strategies.objective)):
        return  # the stream names the parts that can do nothing without a picture
    task = strategies.task
    size = task.size("train")
    reasons = []
    for index in range(PREFLIGHT if size is None else min(PREFLIGHT, size)):
        try:
            example = task.example(index)
        except DataError:  # counted and reported by the stream
            continue
        example = replace(example, wordings=example.wordings or task.wordings(example))
        reasons.append(strategies.sampler.example_lacks(example))
        if reasons[-1] is None:
            return
    NothingToMove(config.training.max_untouched).check(reasons)


def load_policy(
    config: RunConfig,
    template: Template,
    *,
    checkpoint: Path | None = None,
    parts: Callable[[ModelConfig], Parts | None] = lambda model: None,
) -> Policy:
    """Load the policy of a run onto this process's own device.

    Args:
        config: The run's configuration.
        template: Turns examples into prompts.
        checkpoint: The checkpoint whose weights take the place of the configured model's.
        parts: Returns the model's parts where they are loaded already, None to load them; a checkpoint takes
            precedence.

    Raises:
        ModelError: If the model or its processors do not load.
    """
    claim_device()
    seed_globals(derive(config.seed, "adapter"))  # fresh adapters are drawn from the global generator
    model = config.model
    if checkpoint is not None:
        model = model.model_copy(update={"path": str(checkpoint), "revision": None})
    loaded = parts(model) if checkpoint is None else None
    return Policy.around(loaded or load_parts(model), model, template, sampling=config.sampling, entropy=config.entropy)


def load_reference(config: RunConfig, policy: Policy, accelerator: Any, parts: Parts | None = None) -> Policy:
    """Return the policy that a run began with: under LoRA the same model with its adapters switched off.

    Args:
        config: The run's configuration.
        policy: The policy that is trained.
        accelerator: Accelerate's, which prepares a model of its own.
        parts: The model's parts, as the run began with them; None loads them.
    """
    if config.model.lora is not None:
        return policy.without_adapter()
    parts = parts or load_parts(config.model)
    reference = Policy.around(parts, config.model, policy.template, sampling=config.sampling, entropy=config.entropy)
    reference.module = accelerator.prepare_model(reference.module, evaluation_mode=True)
    return reference


def start_processes(config: RunConfig, device: torch.device) -> tuple[Any, Processes]:
    """Return accelerate's accelerator, and the processes that were launched together, of which this is one.

    Args:
        config: The run's configuration.
        device: Where the policy's weights are.

    Raises:
        ConfigError: If the run cannot be done so.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # precision is a process-wide state, which an earlier run has set
    accelerator = Accelerator(
        mixed_precision=config.training.mixed_precision, cpu=device.type == "cpu", **launch_options()
    )
    return accelerator, processes_of(accelerator, config)


def open_data(
    config: RunConfig, strategies: Strategies, policy: Policy, processes: Processes, *, shared: bool = True
) -> Data:
    """Open the stream of training views, and look at its first examples, or at all of them where the run sifts.

    Args:
        config: The run's configuration.
        strategies: The run's strategies; the sampler is checked against the policy and a first view.
        policy: Makes the views.
        processes: Those that train together; the first scans the examples for all of them.
        shared: Whether each process gets its share of the examples; if not, each gets all.

    Raises:
        SaeiError: If too many of the examples cannot be used, or the sampler cannot work with this policy.
    """
    task, reward = strategies.task, strategies.reward
    stream = ViewStream(
        task,
        policy,
        seed=config.seed,
        max_bad_share=config.training.max_bad_share,
        reward=reward,
        processes=processes if shared else None,
    )

    def look_at_all() -> list[ExampleReport]:
        with progress("Looking at the data") as on_progress:
            return scan(task, policy, "train", reward=reward, cache=CACHE, on_progress=on_progress)

    scanned = None
    if config.training.sift:
        scanned = ScanResult("train", processes.once(look_at_all))
        stream.admit("train", scanned.reports)
    need_picture = [name for part in (strategies.sampler, strategies.objective) for name in _need_picture(part)]
    views = stream.preflight(list(dict.fromkeys(need_picture)))
    strategies.sampler.check(policy, views)
    limit = NothingToMove(config.training.max_untouched)
    limit.check([strategies.sampler.lacks(view) for view in views])
    return Data(stream, scanned)


def _need_picture(strategy: Strategy) -> list[str]:
    """Return which of a strategy's parts compare a view with one whose pictures are changed."""
    names = [name for part in strategy.parts().values() for name in _need_picture(part)]
    # What is made of such parts needs what they need; the parts are what the user named.
    if not names and needs_picture(getattr(strategy, "needs", ())):
        names.append(f"The {strategy.kind} '{strategy.name()}'")
    return names
