"""The contracts of objectives and terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import response_mean
from saei.objectives.base import Loss, Objective, ObjectiveInput, Term
from saei.objectives.batch import UpdateBatch
from saei.testing.objective_inputs import (
    LENGTHS,
    copies,
    objective_inputs,
    padded,
    some_rows,
    update_batch,
    wider,
)
from saei.testing.rules import changed, config_of, random_state_untouched, require, require_filled, require_read, seeded

LossFunction: TypeAlias = Callable[[ObjectiveInput], Loss]

TOLERANCE = 1e-10


def check_objective(subject: Strategy | StrategyConfig) -> None:
    """Hold an objective to its contract.

    Args:
        subject: The objective or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    objective = config.build()
    require(isinstance(objective, Objective), config.type, "the config of an objective builds an Objective")
    prepared, prepared_idle = _check_prepare(objective)
    _check_needs(objective.loss, objective.needs, config.type, prepared)
    inputs = replace(objective_inputs(objective.needs), prepared=prepared)
    _check_loss(objective.loss, lambda: config.build().loss, inputs, config.type)
    _check_policy_loss(objective, inputs, prepared_idle, config.type)
    masked = changed(config, mask_truncated=True).build()
    truncated_RT = inputs.mask_RT & inputs.truncated_R[:, None]
    require(
        all(not gradient_RT[truncated_RT].any() for gradient_RT in _gradients(masked.loss, inputs)),
        config.type,
        "with mask_truncated, truncated responses have no gradient",
    )


def check_term(subject: Strategy | StrategyConfig) -> None:
    """Hold a term to its contract.

    Args:
        subject: The term or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    term = config.build()
    require(isinstance(term, Term), config.type, "the config of a term builds a Term")
    prepared = _check_term_prepare(term)
    _check_needs(_alone(term), term.needs, config.type, prepared)
    inputs = replace(objective_inputs(term.needs), prepared=prepared)

    def fresh() -> LossFunction:
        other = config.build()
        _check_term_prepare(other)
        return _alone(other)

    _check_loss(_alone(term), fresh, inputs, config.type)


def _check_prepare(objective: Objective) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Hold ``prepare`` to its contract and return what it prepares, also of the same batch without advantages."""
    name, needs = objective.name(), objective.batch_needs
    require_filled(needs, name, grad=False)

    def prepare(batch: UpdateBatch) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return objective.prepare(batch, progress=0.5, generator=seeded())

    batch = update_batch(needs)
    before = copies(batch)
    with random_state_untouched(name):
        prepared = prepare(batch)
    _require_prepared(prepared, prepare, batch, before, name)
    return prepared, prepare(replace(batch, advantage_RT=torch.zeros_like(batch.advantage_RT)))


def _require_prepared(
    prepared: Mapping[str, Tensor],
    prepare: Callable[[UpdateBatch], Mapping[str, Tensor]],
    batch: UpdateBatch,
    before: Mapping[str, Tensor],
    name: str,
) -> None:
    """Hold what was prepared of an update batch to the rules that objectives and terms share."""
    unchanged = all(torch.equal(tensor, getattr(batch, field)) for field, tensor in before.items())
    require(unchanged, name, "the update batch is left as it was")
    for key, value in prepared.items():
        whole = value.ndim == 0 or (value.ndim <= 2 and value.shape[0] == len(LENGTHS))
        require(whole, name, f"'{key}' is prepared as a scalar or with one row per response")
    require(_equal(prepared, prepare(batch)), name, "the same update batch prepares the same")
    columns, wide = batch.mask_RT.shape[1], prepare(wider(batch))
    cut = {key: value[:, :columns] if value.ndim == 2 else value for key, value in wide.items()}
    require(_equal(prepared, cut), name, "what stands on padding of the update batch prepares the same")


def _check_term_prepare(term: Term) -> Mapping[str, Tensor]:
    """Hold a term's ``begin_step`` and ``prepare`` to their contract, in its first steps, and return what it prepares.

    In the first step entropies and other needs are small, in the second step larger: a controller of the policy's
    entropy then acts, and what is held at its first value has moved.
    """
    name, needs = term.name(), term.batch_needs
    require_filled(needs, name, grad=False)
    batch = update_batch(needs)
    small = replace(
        batch,
        behaviour_entropy_RT=batch.behaviour_entropy_RT / 100,
        statistics={
            need: value if value.dtype == torch.bool else value / 100 for need, value in batch.statistics.items()
        },
    )

    def prepare(batch: UpdateBatch) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return term.prepare(batch, progress=0.5, generator=seeded())

    before = copies(batch)
    with random_state_untouched(name):
        term.begin_step(replace(small, statistics={}), progress=0.0)
        prepare(small)
        prepared = prepare(batch)
    _require_prepared(prepared, prepare, batch, before, name)
    require_read(needs, name, lambda need: prepare(update_batch(needs - {need})))
    return prepared


def _check_needs(
    loss: LossFunction, needs: frozenset[Need], name: str, prepared: Mapping[str, Tensor] | None = None
) -> None:
    require_filled(needs, name, other_views=True)

    def inputs_of(filled: frozenset[Need]) -> ObjectiveInput:
        return replace(objective_inputs(filled), prepared=prepared or {})

    try:
        loss(inputs_of(needs))
    except KeyError as error:
        raise AssertionError(f"{name}: it reads only inputs that its needs declare.") from error
    require_read(needs, name, lambda need: loss(inputs_of(needs - {need})))


def _check_loss(loss: LossFunction, fresh: Callable[[], LossFunction], inputs: ObjectiveInput, name: str) -> None:
    before = copies(inputs)
    with random_state_untouched(name):
        result = loss(inputs)
    require(result.value.shape == (), name, "the loss is a scalar")
    unchanged = all(torch.equal(tensor, getattr(inputs, field)) for field, tensor in before.items())
    require(unchanged, name, "the inputs are left as they were")
    gradients = _gradients(loss, inputs)
    require(bool(result.value.isfinite()), name, "the loss is finite")
    require(all(bool(gradient.isfinite().all()) for gradient in gradients), name, "gradients are finite")
    require(any(bool(gradient.any()) for gradient in gradients), name, "a gradient reaches logp_RT or a statistic")
    require(all(not gradient_RT[~inputs.mask_RT].any() for gradient_RT in gradients), name, "padding has no gradient")
    for metric, values_R in result.metrics.items():
        require(values_R.shape == (len(LENGTHS),), name, f"the metric '{metric}' has one value per response")
        require(not values_R.requires_grad, name, f"the metric '{metric}' is detached")
        require(bool((values_R.isfinite() | values_R.isnan()).all()), name, f"the metric '{metric}' is finite or NaN")

    again, again_gradients = fresh()(inputs), _gradients(fresh(), inputs)
    same = torch.equal(result.value, again.value) and all(map(torch.equal, gradients, again_gradients))
    require(same and _equal(result.metrics, again.metrics), name, "the same inputs give the same loss")

    wide, wide_gradients = loss(padded(inputs)), _gradients(loss, padded(inputs))
    columns = inputs.mask_RT.shape[1]
    require(
        _close(result.value, wide.value)
        and _equal(result.metrics, wide.metrics)
        and all(_close(ours, theirs[:, :columns]) for ours, theirs in zip(gradients, wide_gradients, strict=True)),
        name,
        "what stands on padding, and how much of it, changes nothing",
    )

    parts = [some_rows(inputs, rows) for rows in (slice(0, 1), slice(1, 3), slice(3, None))]
    total = torch.stack([loss(part).value for part in parts]).sum()
    part_gradients = [torch.cat(pieces) for pieces in zip(*(_gradients(loss, part) for part in parts), strict=True)]
    part_metrics = {key: torch.cat([loss(part).metrics[key] for part in parts]) for key in result.metrics}
    require(
        _close(result.value, total)
        and all(map(_close, gradients, part_gradients))
        and _equal(result.metrics, part_metrics),
        name,
        "micro-batches add up to the whole batch",
    )


def _check_policy_loss(
    objective: Objective, inputs: ObjectiveInput, prepared_idle: Mapping[str, Tensor], name: str
) -> None:
    logp_gradient_RT = _gradients(objective.policy_loss, inputs)[0]
    require(not logp_gradient_RT[~inputs.selected_RT].any(), name, "the policy loss uses selected tokens only")

    idle = replace(inputs, advantage_RT=torch.zeros_like(inputs.advantage_RT), prepared=prepared_idle)
    require(
        not _gradients(objective.policy_loss, idle)[0].any(), name, "without advantages the policy loss has no gradient"
    )

    logp_RT = inputs.logp_RT.detach()
    on_policy = replace(inputs, old_logp_RT=logp_RT, behaviour_logp_RT=logp_RT)
    slope_R = _gradients(objective.policy_loss, on_policy)[0].sum(dim=1) * inputs.advantage_RT[:, 0]
    require(
        bool((slope_R[inputs.selected_RT.any(dim=1)] < 0).all()),
        name,
        "on the old policy, making a response with a positive advantage likelier lowers the policy loss",
    )

    weight_RT = 0.5 + torch.arange(inputs.mask_RT.numel()).reshape(inputs.mask_RT.shape) / inputs.mask_RT.numel()
    once_RT, twice_RT, never_RT = (
        _gradients(objective.policy_loss, replace(inputs, weight_RT=factor * weight_RT))[0] for factor in (1, 2, 0)
    )
    require(
        _close(2 * once_RT, twice_RT) and not never_RT.any() and not _close(once_RT, logp_gradient_RT),
        name,
        "the policy loss is proportional to the weights of its tokens",
    )


def _alone(term: Term) -> LossFunction:
    """Return a term's loss under the aggregation that it gets in GRPO."""

    def loss(inputs: ObjectiveInput) -> Loss:
        return term.loss(inputs, partial(response_mean, inputs=replace(inputs, selected_RT=inputs.mask_RT)))

    return loss


def _gradients(loss: LossFunction, inputs: ObjectiveInput) -> list[Tensor]:
    leaves = [leaf for leaf in (inputs.logp_RT, *inputs.statistics.values()) if leaf.requires_grad]
    value = loss(inputs).value
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(_close(left[name], right[name]) for name in left)
