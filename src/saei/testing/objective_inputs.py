"""Batches that objectives, terms and weights are checked on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.need import Need
from saei.objectives.base import ObjectiveInput
from saei.objectives.batch import Row, UpdateBatch

LENGTHS = (5, 1, 4, 2, 3)


def objective_inputs(needs: Collection[Need]) -> ObjectiveInput:
    """Return five responses of different lengths, one without a selected token, one truncated, three off view.

    The current policy differs from the old one, so that ratios are not 1.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(shape, dtype=torch.float64, generator=generator)

    mask_RT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    selected_RT = mask_RT & (torch.arange(max(LENGTHS)) != 1) & (torch.tensor(LENGTHS) != 2)[:, None]
    logp_RT = -normal(1.0).abs() - 0.1
    old_logp_RT = logp_RT + normal(0.1)
    statistics = {}
    for need in sorted(needs, key=str):
        values_RT = logp_RT + normal(0.3) if need.statistic == "logp" else normal(1.0).abs()
        statistics[need] = (values_RT * mask_RT).requires_grad_(bool(need.grad))
    return ObjectiveInput(
        logp_RT=logp_RT.clone().requires_grad_(),
        old_logp_RT=old_logp_RT,
        behaviour_logp_RT=old_logp_RT + normal(0.5),
        mask_RT=mask_RT,
        selected_RT=selected_RT,
        advantage_RT=torch.tensor([1.2, -0.7, -0.4, 0.9, 0.3], dtype=torch.float64)[:, None] * mask_RT,
        truncated_R=torch.tensor([True, False, False, False, False]),
        off_view_R=torch.tensor([False, False, True, True, True]),
        beta_R=torch.full((len(LENGTHS),), 0.5, dtype=torch.float64),
        cap_R=torch.full((len(LENGTHS),), 2.0, dtype=torch.float64),
        n_responses=float(2 * len(LENGTHS)),
        n_tokens=float(2 * sum(LENGTHS)),
        n_selected=float(2 * selected_RT.sum()),
        max_new_tokens=8,
        correct_R=torch.tensor([True, False, True, True, False]),
        statistics=statistics,
    )


def update_batch(needs: Collection[Need]) -> UpdateBatch:
    """Return an update batch of the responses of ``objective_inputs``, of two groups, with these needs filled.

    ``eos`` marks last tokens, log-probabilities are negative, other needs are numbers between 0 and 2.
    """
    generator = torch.Generator().manual_seed(3)
    inputs = objective_inputs(frozenset())
    mask_RT, shape = inputs.mask_RT, inputs.mask_RT.shape

    def numbers() -> Tensor:
        return torch.rand(shape, generator=generator) * mask_RT

    last_RT = mask_RT & (torch.arange(shape[1]) == torch.tensor(LENGTHS)[:, None] - 1)

    def values(need: Need) -> Tensor:
        if need.statistic in ("eos", "template"):
            return last_RT if need.statistic == "eos" else numbers() > 0.5
        return -numbers() if need.statistic == "logp" else 2 * numbers()

    return UpdateBatch(
        rows=tuple(Row(index, response, view=0) for index, response in ((3, 0), (3, 1), (3, 2), (8, 0), (8, 1))),
        ids_RT=torch.randint(50, shape, generator=generator) * mask_RT,
        mask_RT=mask_RT,
        behaviour_logp_RT=-numbers(),
        behaviour_entropy_RT=2 * numbers(),
        advantage_RT=inputs.advantage_RT.float(),
        truncated_R=inputs.truncated_R,
        drawn_RT=mask_RT & ((torch.arange(shape[1]) > 0) | (torch.arange(shape[0]) != 1)[:, None]),
        statistics={need: values(need) for need in sorted(needs, key=str)},
    )


def wider(batch: UpdateBatch) -> UpdateBatch:
    """Return an update batch with three more columns and with noise on all padding."""
    generator = torch.Generator().manual_seed(4)
    mask_RT = pad(batch.mask_RT, (0, 3))

    def noisy(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bool:
            return torch.where(mask_RT, pad(tensor, (0, 3)), True)
        noise_RT = (50 * torch.rand(mask_RT.shape, generator=generator)).to(tensor.dtype)
        return torch.where(mask_RT, pad(tensor, (0, 3)), noise_RT)

    wide: dict[str, Any] = {
        name: noisy(value) for name, value in copies(batch).items() if name.endswith("_RT") and name != "mask_RT"
    }
    statistics = {need: noisy(value) for need, value in batch.statistics.items()}
    return replace(batch, **wide, mask_RT=mask_RT, statistics=statistics)


def copies(inputs: ObjectiveInput | UpdateBatch) -> dict[str, Tensor]:
    """Return detached copies of the tensors by field name."""
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: value.detach().clone() for name, value in values.items() if isinstance(value, Tensor)}


def padded(inputs: ObjectiveInput) -> ObjectiveInput:
    """Return the inputs with three more columns and with noise on all padding."""
    generator = torch.Generator().manual_seed(1)

    def wider_by_3(tensor: Tensor) -> Tensor:
        padded_RT = pad(tensor.detach().clone(), (0, 3))
        if tensor.is_floating_point():
            noise_RT = 10 * torch.randn(padded_RT.shape, dtype=tensor.dtype, generator=generator)
            padded_RT = torch.where(pad(inputs.mask_RT, (0, 3)), padded_RT, noise_RT)
        return padded_RT.requires_grad_(tensor.requires_grad)

    wide: dict[str, Any] = {name: wider_by_3(getattr(inputs, name)) for name in copies(inputs) if name.endswith("_RT")}
    columns = inputs.mask_RT.shape[1]
    prepared = {name: _like_rows(value, columns, pad_by=3) for name, value in inputs.prepared.items()}
    statistics = {need: wider_by_3(value) for need, value in inputs.statistics.items()}
    return replace(inputs, **wide, prepared=prepared, statistics=statistics)


def _like_rows(value: Tensor, columns: int, pad_by: int) -> Tensor:
    return pad(value[:, :columns], (0, pad_by)) if value.ndim == 2 else value


def some_rows(inputs: ObjectiveInput, rows: slice) -> ObjectiveInput:
    """Return the micro-batch of some of the responses; the counts stay those of the whole batch."""

    def part_of(tensor: Tensor) -> Tensor:
        return tensor.detach().clone()[rows].requires_grad_(tensor.requires_grad)

    part: dict[str, Any] = {name: part_of(getattr(inputs, name)) for name in copies(inputs)}
    prepared = {name: value[rows] if value.ndim else value for name, value in inputs.prepared.items()}
    statistics = {need: part_of(value) for need, value in inputs.statistics.items()}
    return replace(inputs, **part, prepared=prepared, statistics=statistics)
