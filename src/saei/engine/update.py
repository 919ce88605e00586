"""The update: from train groups to optimiser steps.

train groups ─► rows, with weights and old log-probabilities ─► update batches ─► loss of each micro-batch ─► gradients

``update_preparation`` has what precedes the loss, ``update_rows`` and ``update_objective`` what either works on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from saei.config.sections import TrainingConfig
from saei.engine.metrics import UpdateLog
from saei.engine.schedule import Schedule
from saei.engine.update_objective import Prepared, objective_input, weight_metrics
from saei.engine.update_preparation import Phase, Preparation
from saei.engine.update_rows import OLD_LOGP, BatchCounts, GroupRows, RowScores
from saei.errors import TrainingError
from saei.objectives.base import Objective
from saei.policy import Policy
from saei.policy.statistics.needs import check_needs, moves
from saei.runtime.processes import Processes
from saei.runtime.seeds import derive
from saei.types import NO_IMAGE, TrainGroup
from saei.views import needs_picture


def _untimed(_: str) -> AbstractContextManager[None]:
    return nullcontext()


OldLogp: TypeAlias = dict[tuple[int, int], Tensor]
"""By the index of a group and the number of a response in it: the old policy's log-probabilities, ``[T]``."""


@dataclass(frozen=True, eq=False, slots=True)
class UpdateResult:
    """What an update gives besides a policy that has moved.

    Attributes:
        metrics: Loss, gradient norm, and the objective's metrics by origin.
        old_logp: Of the responses that were trained on for the first time, under the view that they were trained under,
            on the CPU. Empty unless the configuration has a replay.
    """

    metrics: dict[str, float]
    old_logp: OldLogp


class Updater:
    """Turns the groups of a step into optimiser steps; an update batch is some of the groups, each as a whole.

    Args:
        policy: The policy that is trained.
        objective: Its loss.
        optimizer: Prepared by the accelerator.
        schedule: Sets the learning rate of each optimiser step.
        accelerator: Accelerate's.
        config: Epochs, optimiser steps in each, micro-batches.
        max_grad_norm: Gradients are clipped to this norm.
        reference: The reference policy, for needs that name it.
        seed: Seed of the order of groups and of the objective's random choices.
        processes: The processes that train together; counts, update batches and metrics are those of all.

    Attributes:
        updates: Optimiser steps begun since this was made.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        *,
        optimizer: Any,
        schedule: Schedule,
        accelerator: Any,
        config: TrainingConfig,
        max_grad_norm: float,
        reference: Policy | None,
        seed: int,
        processes: Processes | None = None,
    ) -> None:
        self._policy = policy
        policy.reference = reference
        self._objective = objective
        self._optimizer = optimizer
        self._schedule = schedule
        self.updates = 0
        self._accelerator = accelerator
        self._config = config
        self._max_grad_norm = max_grad_norm
        self._seed = seed
        self._processes = processes or Processes()
        self._preparation = Preparation(policy, objective, seed=seed, processes=self._processes)
        self._leaves_out = any(needs_picture(weight.needs) for weight in objective.weights.values()) or any(
            term.needs_picture for term in objective.terms
        )

    def run(
        self,
        groups: Sequence[TrainGroup],
        *,
        step: int,
        progress: float,
        phase: Phase = _untimed,
    ) -> UpdateResult:
        """Train on a step's groups.

        Args:
            groups: This process's groups, of which there may be none; all processes together need one. Each has an
                index of its own, by which the groups of all processes are put in the order that they have in one.
            step: Steps done.
            progress: Share of the training done, in [0, 1].
            phase: Accounts as ``prepare`` the time for weights, for what the objective prepares, and for their needs.

        Raises:
            TrainingError: If a gradient is not finite; the parameters are those before the optimiser step.
        """
        # --- Plan: which groups, of all processes, make up each optimiser step; the same in every process.
        indices_of_all = sorted(
            index for part in self._processes.gather([each.group.index for each in groups]) for index in part
        )
        assert len(set(indices_of_all)) == len(indices_of_all), "two groups of a step have one index"
        plan = self._plan(indices_of_all, step)
        on_policy = len(plan) == 1  # the only optimiser step sees the old policy itself; later ones see one that moved

        # --- Rows: for each group what is the same in every update batch, computed while the policy is the old one.
        rows_of_index = {}
        for each in groups:
            index = each.group.index
            rows = self._preparation.rows(each, on_policy=on_policy, first=index in plan[0][1], phase=phase)
            rows_of_index[index] = self._preparation.weighted(rows, step=step, progress=progress, phase=phase)

        # --- Terms with a state see what the step drew, of all processes, before the policy moves.
        if any(term.begins for term in self._objective.terms):
            self._preparation.begin_step(list(rows_of_index.values()), progress)

        old_logp: OldLogp = {}
        if not on_policy:
            for rows in rows_of_index.values():
                old_logp |= self._old_logp(rows, rows.statistics[OLD_LOGP])
        log = UpdateLog()
        for update, indices in plan:
            self._schedule.begin(step, update)
            batch = [rows_of_index[index] for index in indices if index in rows_of_index]

            # --- The whole update batch, for the weights and objectives that depend on all of it.
            prepared = Prepared()
            if self._preparation.looks_at_batch:
                with phase("prepare"):
                    batch, prepared = self._preparation.whole_batch(batch, step=step, update=update, progress=progress)

            # --- Gradients of all micro-batches and processes add up.
            # In the first optimiser step the policy has not moved, and ratios are exactly 1: what differs by rounding
            # from a pass before would give |logp - old_logp| a slope.
            loss, old_logp_of_batch = self._backward(batch, prepared, update == plan[0][0], log)
            old_logp |= old_logp_of_batch

            # --- The parameters move.
            norm = self._optimiser_step(loss)
            log.step(loss, norm)
        self._policy.forget_old()
        metrics = log.summary(self._processes)
        if self._leaves_out:
            imageless = self._processes.total(sum(not each.group.views[0].canvases for each in groups))
            metrics[f"left_out/{NO_IMAGE}"] = imageless / len(indices_of_all)
        return UpdateResult(metrics, old_logp)

    def _plan(self, indices: Sequence[int], step: int) -> list[tuple[int, list[int]]]:
        """Return the number of each optimiser step and the indices of its groups, in ascending order.

        Each epoch splits the groups, in a new order, into ``updates_per_batch`` parts whose sizes differ by one at
        most, the larger ones first. Fewer groups than parts leave the last parts empty; these are passed over, and
        keep their numbers, so that the others have the learning rates that were planned for them.
        """
        parts, plan = self._config.updates_per_batch, []
        for epoch in range(self._config.ppo_epochs):
            seed = derive(self._seed, "minibatches", step, epoch)
            order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed)).tolist()
            for part, places in enumerate(np.array_split(np.array(order, dtype=int), parts)):
                if len(places):
                    plan.append((epoch * parts + part, [indices[place] for place in sorted(places.tolist())]))
        return plan

    def _backward(
        self, batch: Sequence[GroupRows], prepared: Prepared, on_policy: bool, log: UpdateLog
    ) -> tuple[float, OldLogp]:
        """Accumulate the gradients of an update batch over all micro-batches and processes.

        Returns:
            This process's loss; and where the old policy's log-probabilities are those of this pass, these.
        """
        # The loss of a micro-batch is its share of the whole batch's, so the counts come first.
        counts = BatchCounts.of(batch, mask_truncated=self._objective.config.mask_truncated)
        counts = BatchCounts.total(self._processes.gather(counts))
        needs = [need for need in self._objective.needs if moves(need)]
        size = self._config.micro_groups or max(1, len(batch))
        loss, old_logp = 0.0, OldLogp()
        for start in range(0, len(batch), size):
            micro_batch = batch[start : start + size]
            if not any(len(response) for rows in micro_batch for response in rows.responses):
                continue  # no token, and so no loss
            with self._processes.alone(self._policy.module):
                scores = RowScores.of(self._policy, micro_batch, needs)
                inputs = objective_input(
                    micro_batch,
                    scores,
                    counts=counts,
                    max_new_tokens=self._policy.sampling.max_new_tokens,
                    prepared=prepared,
                    on_policy=on_policy,
                )
                if on_policy:
                    logps = scores.logp_RT.split([len(rows.rows) for rows in micro_batch])
                    for rows, logp_NT in zip(micro_batch, logps, strict=True):
                        old_logp |= self._old_logp(rows, logp_NT)
                result = self._objective.loss(inputs)
                # Counts cover all processes, so gradients must be summed, and the wrapper takes their mean.
                self._accelerator.backward(result.value * self._processes.count, inputs=self._parameters())
            loss += float(result.value.detach())
            of_weights = weight_metrics(micro_batch, mask_truncated=self._objective.config.mask_truncated)
            log.add([origin for rows in micro_batch for origin in rows.origins], {**result.metrics, **of_weights})
        self._processes.add_up_gradients(self._accelerator, self._policy.module, self._parameters())
        return loss, old_logp

    def _old_logp(self, rows: GroupRows, logp_NT: Tensor) -> OldLogp:
        """Return the old policy's log-probabilities of a group's responses, if a replay wants them and has them not."""
        if self._config.replay is None or rows.group.old_logp is not None:
            return {}
        return {
            (row.index, row.response): logp_T[: len(response)].clone()
            for row, response, logp_T in zip(rows.rows, rows.responses, logp_NT.detach().cpu(), strict=True)
        }

    def _optimiser_step(self, loss: float) -> float:
        """Clip the gradients, move the parameters and return the norm before clipping.

        Raises:
            TrainingError: If the norm is not finite.
        """
        norm = float(self._accelerator.clip_grad_norm_(self._parameters(), self._max_grad_norm))
        if not math.isfinite(norm) and self._config.mixed_precision != "fp16":  # fp16's scaler skips such steps itself
            raise TrainingError(
                "Gradients have to be finite.",
                reason=f"Their norm is {norm}, the loss {loss}.",
                remedy="Start a new run with a lower optimizer.lr, or in float32: from this one's last checkpoint "
                "(--model), if it has one.",
            )
        self.updates += 1  # counted before: a step that fails half-way has changed weights
        self._optimizer.step()
        self._policy.weights_changed()
        self._optimizer.zero_grad()
        return norm

    def _parameters(self) -> list[Tensor]:
        return [parameter for parameter in self._policy.module.parameters() if parameter.requires_grad]


def check_update(objective: Objective) -> None:
    """Refuse an objective, or parts of it, that ask for what the update cannot compute.

    Raises:
        ConfigError: Naming the need and the known ones.
    """
    name = f"The objective '{objective.name()}'"
    check_needs(objective.needs, name, other_views=True)
    check_needs(objective.batch_needs, name, grad=False)
    advantage = f"The advantage '{objective.advantage.name()}'"
    check_needs(objective.advantage.needs, advantage, policies=("current", "reference"), grad=False)
    for term in objective.terms:
        check_needs(term.batch_needs, f"The term '{term.name()}'", grad=False)
    for weight in objective.weights.values():
        check_needs(weight.needs, f"The weight '{weight.name()}'", grad=False)
