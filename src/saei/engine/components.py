"""What saei's own loop is made of, built in the order in which mistakes come cheapest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saei.config.control_probe import readers_of_control_probe
from saei.config.run import RunConfig
from saei.engine import checkpoint
from saei.engine.control_probe import ControlProbe
from saei.engine.held_out import HeldOutEvaluation
from saei.engine.objects import Objects
from saei.engine.replay import Replay
from saei.engine.samples import HeldOutGroups
from saei.engine.schedule import Schedule
from saei.engine.setup import (
    Data,
    Strategies,
    build_strategies,
    check_output,
    load_policy,
    load_reference,
    open_data,
    start_processes,
)
from saei.engine.state import RunState
from saei.engine.update import Updater
from saei.policy import Policy
from saei.policy.decoder import DecoderGaps
from saei.policy.statistics.needs import policies_of
from saei.runtime.launcher import first_process
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir


@dataclass(frozen=True, eq=False, slots=True)
class Components:
    """The parts of a training.

    Attributes:
        strategies: Task, template, reward, sampler and objective.
        policy: Is trained.
        decoder_gaps: How far the decoder's log-probabilities are from the policy's.
        processes: Those that train together.
        schedule: Of the learning rate.
        updater: Makes the optimiser steps.
        data: Where views come from.
        evaluation: On held-out examples.
        held_out_groups: Groups of held-out examples that are drawn to be looked at.
        control_probe: The control probe, None where no strategy reads it.
        replay: What is kept of earlier steps.
        state: How far the run is; read from the checkpoint of a resumed run.
    """

    strategies: Strategies
    policy: Policy
    decoder_gaps: DecoderGaps
    processes: Processes
    schedule: Schedule
    updater: Updater
    data: Data
    evaluation: HeldOutEvaluation
    held_out_groups: HeldOutGroups
    control_probe: ControlProbe | None
    replay: Replay
    state: RunState


def build_components(config: RunConfig, objects: Objects, resume: RunDir | None) -> Components:
    """Build and check all parts of a training.

    Args:
        config: The run's configuration.
        objects: What a program gave in place of names.
        resume: A run to go on with from its newest checkpoint; None for a new one.

    Raises:
        SaeiError: If configuration, model, data or checkpoint cannot work.
    """
    # --- Errors that need no weights come before any weights are loaded.
    if resume is not None and first_process():
        resume.lock.acquire()  # before its newest checkpoint is looked for, which another process may delete
    check_output(config, new=resume is None)
    strategies = build_strategies(config, task=objects.task, reward=objects.reward)
    start = checkpoint.start_of(resume, config) if resume else None

    # --- The policy, and where its responses come from.
    with_reference = any("reference" in policies_of(need) for need in strategies.objective.all_needs)
    # Copied before the model that was given is trained.
    reference_parts = objects.reference_parts(config.model) if with_reference and not config.model.lora else None
    policy = load_policy(config, strategies.template, checkpoint=start, parts=objects.parts)
    decoder_gaps = DecoderGaps(config.training.max_decoder_gap)
    policy.decoder, policy.on_decoded = config.decoder.build(), decoder_gaps

    # --- The processes that train together, the optimiser and the update.
    accelerator, processes = start_processes(config, policy.device)
    optimizer: Any = torch.optim.AdamW(
        [parameter for parameter in policy.module.parameters() if parameter.requires_grad],
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    schedule = Schedule(optimizer, config.optimizer, config.training)
    policy.module, optimizer = accelerator.prepare(policy.module, optimizer)
    reference = load_reference(config, policy, accelerator, reference_parts) if with_reference else None
    updater = Updater(
        policy,
        strategies.objective,
        optimizer=optimizer,
        schedule=schedule,
        accelerator=accelerator,
        config=config.training,
        max_grad_norm=config.optimizer.max_grad_norm,
        reference=reference,
        seed=config.seed,
        processes=processes,
    )

    # --- The data, and what is measured on it between steps.
    data = open_data(config, strategies, policy, processes)
    evaluation = HeldOutEvaluation(
        config,
        policy,
        task=strategies.task,
        reward=strategies.reward,
        stream=data.stream,
        processes=processes,
    )
    held_out_groups = HeldOutGroups(
        config,
        policy,
        sampler=strategies.sampler,
        reward=strategies.reward,
        task=strategies.task,
        views=evaluation.views[: config.evaluation.held_out_groups],
    )
    control_probe = None
    if readers_of_control_probe(config):
        control_probe = ControlProbe(config, policy, stream=data.stream, held_out=evaluation.views, processes=processes)

    # --- Where the run stands.
    replay = Replay(
        config.training.replay,
        planned=config.training.prompts_per_step * strategies.sampler.group_size,
        seed=config.seed,
        device=policy.device,
        processes=processes,
    )
    state = RunState(
        config,
        strategies=strategies.stateful,
        lacking=strategies.sampler.plan().lacking,
        stream=data.stream,
        replay=replay,
        optimizer=optimizer,
        processes=processes,
    )
    if start is not None:
        state.load(start)
    return Components(
        strategies,
        policy,
        decoder_gaps=decoder_gaps,
        processes=processes,
        schedule=schedule,
        updater=updater,
        data=data,
        evaluation=evaluation,
        held_out_groups=held_out_groups,
        control_probe=control_probe,
        replay=replay,
        state=state,
    )
