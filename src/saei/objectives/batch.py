"""An update batch: every response of one optimiser step, one row each, with a table of what stands in which row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.need import Need


@dataclass(frozen=True, order=True, slots=True)
class Row:
    """Which response a row holds.

    Example:
        ``Row(index=40, response=7, view=1)`` is response 7 of the group with index 40, trained under that group's
        view 1. Rows sort by index, then by response.
    """

    index: int
    response: int
    view: int


@dataclass(frozen=True, eq=False, slots=True)
class UpdateBatch:
    """R responses, right-padded to T: those of one optimiser step in all processes, or of one group.

    Rows are in the order (index, response), however many processes there are. Everything is detached. What several
    processes gather is on the CPU; results may be on any device.

    Attributes:
        rows: Which response stands in each row.
        ids_RT: int64 token ids.
        mask_RT: bool, True on response tokens, but for those at the beginning that the group leaves untrained; in the
            batch of an optimiser step not on those of truncated responses that the objective leaves out
            (``mask_truncated``).
        behaviour_logp_RT: float32 log-probability of each token under the distribution it was drawn from.
        behaviour_entropy_RT: float32 entropy of that distribution, nats.
        advantage_RT: float32, 0 on padding.
        truncated_R: bool, responses that the length limit ended.
        drawn_RT: bool, False on the first tokens of a response that were given to it, and on padding.
        pictured_R: bool, responses trained under a view with a picture; None where all are.
        zeroed_RT: bool, tokens that a weight gave 0; None where none did. Weights are taken in their order, those that
            see a group alone first, and each sees what those before it zeroed; ``Objective.prepare`` sees all of it.
            Whether zeroed tokens count in the denominators (``count_zeroed``) makes no difference here. Terms act on
            every token and leave it aside.
        statistics: One ``[R, T]`` tensor per need of the weights or the objective that get the batch; in these needs
            the own view of a response is the one that it is trained under. Needs of the current policy, such as
            ``Need("entropy")``, cost a pass without gradient over the update batch in each optimiser step; needs of
            the old policy and the reference cost a pass per step. ``Need("logp", policy="old")`` costs nothing more if
            a step makes several optimiser steps. Log-probabilities and entropies of the first update batch, where the
            current policy is the old one, come from one pass for both; from none if it is the only batch, the policy
            drew the responses itself, and they are trained under the views that they were drawn from.
    """

    rows: tuple[Row, ...]
    ids_RT: Tensor
    mask_RT: Tensor
    behaviour_logp_RT: Tensor
    behaviour_entropy_RT: Tensor
    advantage_RT: Tensor
    truncated_R: Tensor
    drawn_RT: Tensor
    pictured_R: Tensor | None = None
    zeroed_RT: Tensor | None = None
    statistics: Mapping[Need, Tensor] = field(default_factory=dict)

    def used(self) -> Tensor:
        """Return the tokens that the policy loss acts on, as far as weights were taken, bool ``[R, T]``."""
        return self.mask_RT if self.zeroed_RT is None else self.mask_RT & ~self.zeroed_RT

    def weighted(self, weight_RT: Tensor) -> UpdateBatch:
        """Return the batch as it is seen after one more weight."""
        zeroed_RT = weight_RT == 0
        return replace(self, zeroed_RT=zeroed_RT if self.zeroed_RT is None else self.zeroed_RT | zeroed_RT)

    def only_pictured(self) -> UpdateBatch:
        """Return the batch without the tokens of responses whose views have no picture."""
        return self if self.pictured_R is None else replace(self, mask_RT=self.mask_RT & self.pictured_R[:, None])

    def cpu(self) -> UpdateBatch:
        """Return the batch on the CPU."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        tensors: dict[str, Any] = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors, statistics={need: value.cpu() for need, value in self.statistics.items()})


def join(batches: Sequence[UpdateBatch]) -> UpdateBatch:
    """Return the batch of all rows of several, in the order (index, response)."""
    rows = [row for batch in batches for row in batch.rows]
    order = sorted(range(len(rows)), key=rows.__getitem__)

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return stack_rows(parts)[order]

    tensors: dict[str, Any] = {}
    for name in (each.name for each in fields(UpdateBatch)):
        parts = [getattr(batch, name) for batch in batches]
        if all(isinstance(part, Tensor) for part in parts):
            tensors[name] = joined(parts)
    statistics = {need: joined([batch.statistics[need] for batch in batches]) for need in batches[0].statistics}
    return replace(batches[0], rows=tuple(rows[place] for place in order), statistics=statistics, **tensors)


def stack_rows(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate ``[R]`` tensors, or ``[R, T]`` tensors of several lengths T, right-padded by 0, along R."""
    width = max(part.shape[-1] for part in parts)
    return torch.cat([part if part.ndim == 1 else pad(part, (0, width - part.shape[1])) for part in parts])
