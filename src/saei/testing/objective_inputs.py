"""Batches that objectives and terms are checked on."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.objectives.base import ObjectiveInput

OPTIONAL = {"entropy": "entropy_RT", "reference": "reference_logp_RT"}
"""Each thing an objective may need and the input that carries it."""

LENGTHS = (5, 1, 4, 2, 3)


def objective_inputs(needs: frozenset[str]) -> ObjectiveInput:
    """Return five ragged responses off the old policy, one without a selected token, one truncated, three off view."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(shape, dtype=torch.float64, generator=generator)

    mask_RT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    selected_RT = mask_RT & (torch.arange(max(LENGTHS)) != 1) & (torch.tensor(LENGTHS) != 2)[:, None]
    logp_RT = -normal(1.0).abs() - 0.1
    old_logp_RT = logp_RT + normal(0.1)
    extra = {"entropy_RT": normal(1.0).abs().requires_grad_(), "reference_logp_RT": logp_RT + normal(0.3)}
    return ObjectiveInput(
        logp_RT=logp_RT.clone().requires_grad_(),
        old_logp_RT=old_logp_RT,
        behaviour_logp_RT=old_logp_RT + normal(0.5),
        mask_RT=mask_RT,
        selected_RT=selected_RT,
        advantage_R=torch.tensor([1.2, -0.7, -0.4, 0.9, 0.3], dtype=torch.float64),
        truncated_R=torch.tensor([True, False, False, False, False]),
        off_view_R=torch.tensor([False, False, True, True, True]),
        beta_R=torch.full((len(LENGTHS),), 0.5, dtype=torch.float64),
        cap_R=torch.full((len(LENGTHS),), 2.0, dtype=torch.float64),
        n_responses=float(2 * len(LENGTHS)),
        n_tokens=float(2 * sum(LENGTHS)),
        n_selected=float(2 * selected_RT.sum()),
        max_new_tokens=8,
        **{field: extra[field] for need, field in OPTIONAL.items() if need in needs},
    )


def copies(inputs: ObjectiveInput) -> dict[str, Tensor]:
    """Return detached copies of the input's tensors by field name."""
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: value.detach().clone() for name, value in values.items() if isinstance(value, Tensor)}


def padded(inputs: ObjectiveInput) -> ObjectiveInput:
    """Return the inputs with three more columns, and numbers on all padding that would be noticed."""
    generator = torch.Generator().manual_seed(1)
    wide: dict[str, Any] = {}
    for name, tensor in copies(inputs).items():
        if not name.endswith("_RT"):
            continue
        padded_RT = pad(tensor, (0, 3))
        if tensor.is_floating_point():
            noise_RT = 10 * torch.randn(padded_RT.shape, dtype=tensor.dtype, generator=generator)
            padded_RT = torch.where(pad(inputs.mask_RT, (0, 3)), padded_RT, noise_RT)
        wide[name] = padded_RT.requires_grad_(getattr(inputs, name).requires_grad)
    return replace(inputs, **wide)


def some_rows(inputs: ObjectiveInput, rows: slice) -> ObjectiveInput:
    """Return the micro-batch of some of the responses; the counts stay those of the whole batch."""
    part: dict[str, Any] = {
        name: tensor[rows].requires_grad_(getattr(inputs, name).requires_grad)
        for name, tensor in copies(inputs).items()
    }
    return replace(inputs, **part)
