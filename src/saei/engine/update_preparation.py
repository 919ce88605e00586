"""What precedes the loss of an update: rows with the scores of other policies, weights, what is made of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from saei.engine.update_objective import Prepared, RowPlaces, labels, touched, weigh
from saei.engine.update_rows import OLD_LOGP, GroupRows
from saei.need import Need
from saei.objectives.base import Objective, Term
from saei.objectives.batch import UpdateBatch, join
from saei.objectives.weights.base import Weight
from saei.policy import Policy
from saei.policy.native import Native
from saei.policy.statistics.needs import moves
from saei.runtime.processes import Processes
from saei.runtime.seeds import derive
from saei.types import TrainGroup
from saei.views import needs_picture

Phase: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Accounts for the time until its context ends under a name."""


class Preparation:
    """Prepares the groups of a step, and each of its update batches, for an objective's loss.

    Args:
        policy: The policy that is trained.
        objective: Its loss, with weights and terms.
        seed: Seed of the objective's random choices.
        processes: The processes that train together; an update batch is that of all.

    Attributes:
        looks_at_batch: Whether something depends on the whole update batch.
    """

    def __init__(self, policy: Policy, objective: Objective, *, seed: int, processes: Processes) -> None:
        self._policy = policy
        self._objective = objective
        self._seed = seed
        self._processes = processes
        self._group_weights = {name: each for name, each in objective.weights.items() if each.per_group}
        self._batch_weights = {name: each for name, each in objective.weights.items() if not each.per_group}
        parts: list[Objective | Term] = [objective, *objective.terms]
        preparing = [part for part in parts if part.prepares]
        self._prepares = bool(preparing)
        self.looks_at_batch = bool(self._batch_weights or preparing)
        self._batch_needs = frozenset[Need]().union(
            *(part.batch_needs for part in preparing), *(weight.needs for weight in self._batch_weights.values())
        )
        # Values that a pass of the policy gives whatever it is made for, so that one pass can serve several needs.
        now = {replace(need, policy="current") for need in self._batch_needs if need.policy in ("current", "old")}
        self._needs_now = frozenset(now & {Need("logp"), Need("entropy")})
        self._labels = labels(objective.weights)
        self._needs_picture = {name for name, weight in objective.weights.items() if needs_picture(weight.needs)}

    def rows(self, group: TrainGroup, *, on_policy: bool, first: bool, phase: Phase) -> GroupRows:
        """Return a group's rows with the scores of other policies.

        The old policy is the current one as it is now. What is needed of it is computed before it moves.

        Args:
            group: The group.
            on_policy: Whether the only optimiser step sees the old policy itself.
            first: Whether the group is in the first update batch.
            phase: Accounts for the time before the loss.
        """
        needs = self._objective.needs | self._batch_needs | (frozenset() if on_policy else {OLD_LOGP})
        rows = GroupRows.of(group, self._policy.device)
        if first and self._needs_now:
            # In the first update batch the current policy still is the old one, so that one pass is enough for both.
            # The only update of a batch needs none if the policy drew the responses itself: the sampling pass will do.
            with phase("prepare") if on_policy else nullcontext():
                drawn = on_policy and isinstance(self._policy.decoder, Native)
                rows.compute(self._policy, self._needs_now, drawn=drawn)
        rows.look_ahead(self._policy, self._objective.all_needs | needs)
        constant = [need for need in needs if not moves(need)]
        return replace(rows, statistics=rows.compute(self._policy, constant))

    def weighted(self, rows: GroupRows, *, step: int, progress: float, phase: Phase) -> GroupRows:
        """Return a group's rows with the weights that see it alone."""
        if not self._group_weights:
            return rows
        with phase("prepare"):
            for name, weight in self._group_weights.items():
                rows = self._weighted(rows, name, weight, step=step, progress=progress)
        return rows

    def _weighted(self, rows: GroupRows, name: str, weight: Weight, *, step: int, progress: float) -> GroupRows:
        label, group = self._labels[name], rows.group.group
        if name in self._needs_picture and not group.views[0].canvases:
            nothing_NT = torch.zeros(rows.mask_NT.shape, device=rows.mask_NT.device)
            return rows.weighted(weight, nothing_NT, touched(label, nothing_NT, rows.mask_NT))
        alone = rows.as_batch(rows.compute(self._policy, weight.needs))
        self._policy.forget_states()  # the other side of divergences
        seed = derive(self._seed, name, step, group.index)
        return rows.weighted(weight, *weigh(weight, alone, label=label, progress=progress, seed=seed))

    @torch.no_grad()
    def begin_step(self, rows: Sequence[GroupRows], progress: float) -> None:
        """Show the newly drawn responses of all processes to the terms whose state depends on them."""
        drawn = [each for each in rows if each.group.old_logp is None]
        parts = self._processes.gather(join([self._as_batch(each, {}) for each in drawn]).cpu() if drawn else None)
        everywhere = [part for part in parts if part is not None]
        if not everywhere:
            return
        whole = join(everywhere)
        for term in self._objective.terms:
            if term.begins:
                term.begin_step(whole.only_pictured() if term.needs_picture else whole, progress=progress)

    @torch.no_grad()
    def whole_batch(
        self, batch: Sequence[GroupRows], *, step: int, update: int, progress: float
    ) -> tuple[list[GroupRows], Prepared]:
        """Return an update batch's groups with their weights, and what the objective prepared.

        Every process does so on the rows of all, with the same result.
        """
        whole = join([part for part in self._processes.gather(self._part_of_batch(batch)) if part is not None])
        places = RowPlaces.of(whole)
        for name, weight in self._batch_weights.items():
            seed = derive(self._seed, name, step, update)
            seen = whole.only_pictured() if name in self._needs_picture else whole
            weight_RT, metrics = weigh(weight, seen, label=self._labels[name], progress=progress, seed=seed)
            batch = [places.weighted(rows, weight, weight_RT, metrics) for rows in batch]
            whole = whole.weighted(weight_RT)
        prepared = Prepared()
        if self._prepares:
            seed = derive(self._seed, "prepare", step, update)
            prepared = Prepared.by(self._objective, whole, progress=progress, seed=seed)
        return list(batch), prepared

    def _part_of_batch(self, batch: Sequence[GroupRows]) -> UpdateBatch | None:
        """Return this process's part of an update batch, on the CPU; None if it has none."""
        if not batch:
            return None
        parts = []
        for rows in batch:
            current = {need for need in self._batch_needs if need not in rows.statistics}
            statistics = {**rows.statistics, **rows.compute(self._policy, current)}
            parts.append(self._as_batch(rows, {need: statistics[need] for need in self._batch_needs}))
        return join(parts).cpu()

    def _as_batch(self, rows: GroupRows, statistics: Mapping[Need, Tensor]) -> UpdateBatch:
        """Return a group as a part of an update batch, without the truncated responses that the loss leaves out."""
        part = rows.as_batch(statistics)
        if self._objective.config.mask_truncated:
            part = replace(part, mask_RT=part.mask_RT & ~part.truncated_R[:, None])
        return part
