"""The cost of an objective's update, with its weights, advantage and terms, over that of plain GRPO on one model."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saei.config.overrides import assigned
from saei.config.run import RunConfig
from saei.diagnostics.bench import Sizes, setting_of
from saei.diagnostics.cost import Workload, peak_growth, ratio, retain_freed_memory, time_in_turns
from saei.diagnostics.synthetic import step_config
from saei.engine import Trainer
from saei.engine.advantages import with_statistics
from saei.engine.combinations import idle_parts
from saei.engine.display import SilentDisplay
from saei.engine.grader import StepGrader
from saei.engine.schedule import Schedule
from saei.engine.setup import start_processes
from saei.engine.update import Updater
from saei.interventions.context import StepContext, Supply, answer_kept
from saei.objectives.advantages.base import train_group
from saei.objectives.base import Objective
from saei.objectives.grpo import GRPO
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.types import ScoredGroup

PLAIN, OTHER = "update, plain GRPO", "update, the objective"
RATIO = "update_over_plain_update"
RATIOS = {RATIO: (OTHER, PLAIN)}
"""Name, numerator and denominator."""


def bench_update(config: RunConfig, sizes: Sizes) -> dict[str, Any]:
    """Measure the update of a configuration's objective against that of ``grpo`` at its defaults, in turns.

    Both train on the same groups of synthetic examples, which the configuration's sampler draws once, with the same
    number of updates per batch. An update is what follows sampling and rewards: advantages with what they need of the
    policy, weights, what is prepared of the batch, losses, gradients and optimiser steps.

    Args:
        config: Names the model, the sampler and the objective.
        sizes: The sizes of the benchmark.

    Raises:
        SaeiError: If the model or the configuration cannot be used.
    """
    retain_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        config = assigned(config, config.sampler.build().plan().settings_for(sizes.responses))
        config = step_config(config, side=sizes.side, prompts=sizes.prompts, tokens=sizes.tokens, folder=Path(folder))
        trainer = Trainer(config, display=SilentDisplay())
        policy = trainer.policy
        policy.never_end()
        scored = _draw(trainer)
        workloads = _updates(trainer, scored, {PLAIN: GRPO(), OTHER: trainer.objective})
        # Memory first: it is measured in forked processes, and a fork has to happen before any backward pass.
        memory = {name: peak_growth(workload, policy.device) for name, workload in workloads.items()}
        passes = {name: _passes(policy, workload) for name, workload in workloads.items()}
        seconds = time_in_turns(workloads, sizes.rounds, policy.device)
    return {
        **setting_of(config, policy, scored[0].group.views[0], sizes),
        "updates_per_batch": config.training.updates_per_batch,
        "idle": idle_parts(config),
        "passes": passes,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "peak_bytes": memory,
        "ratios": {RATIO: ratio(seconds[OTHER], seconds[PLAIN])},
    }


def _draw(trainer: Trainer) -> list[ScoredGroup]:
    """Draw the groups of a step and grade them."""
    grader = StepGrader(trainer.reward)
    context = StepContext(trainer.policy, 0.0, GroupSources(0, "bench"), answer=answer_kept)
    views = trainer.stream.take(trainer.config.training.prompts_per_step)
    return grader.score(trainer.sampler.draw(views, context, Supply(grade=grader, graded=trainer.reward.graded)))


def _updates(trainer: Trainer, scored: Sequence[ScoredGroup], objectives: dict[str, Objective]) -> dict[str, Workload]:
    """Return the updates of some objectives on the same groups; they share the policy and the optimiser."""
    config, policy = trainer.config, trainer.policy
    accelerator, processes = start_processes(config, policy.device)
    parameters = [parameter for parameter in policy.module.parameters() if parameter.requires_grad]
    optimizer: Any = torch.optim.AdamW(parameters, lr=config.optimizer.lr)
    rewards = [reward for group in scored for reward in group.rewards]

    def update(objective: Objective, updater: Updater) -> None:
        ready = [with_statistics(group, objective.advantage.needs, policy) for group in scored]
        groups = [train_group(group, objective.advantage, rewards) for group in ready]
        updater.run(groups, step=0, progress=0.0)

    return {
        name: partial(
            update,
            objective,
            Updater(
                policy,
                objective,
                optimizer=optimizer,
                schedule=Schedule(optimizer, config.optimizer, config.training),
                accelerator=accelerator,
                config=config.training,
                max_grad_norm=config.optimizer.max_grad_norm,
                reference=policy.reference,
                seed=config.seed,
                processes=processes,
            ),
        )
        for name, objective in objectives.items()
    }


def _passes(policy: Policy, workload: Workload) -> int:
    """Return how often a workload calls the model."""
    with _counted(policy) as calls:
        workload()
    return len(calls)


@contextmanager
def _counted(policy: Policy) -> Iterator[list[None]]:
    calls: list[None] = []
    handle = policy.module.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()
