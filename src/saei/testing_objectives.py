"""The contract of objectives and terms, as checks that anyone's strategy can be held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from saei.objectives.base import Loss, Objective, ObjectiveInput, Term
from saei.registry import StrategyConfig

LossFunction: TypeAlias = Callable[[ObjectiveInput], Loss]

OPTIONAL = {"entropy": "entropy_RT", "reference": "reference_logp_RT"}
"""Each thing an objective may need and the input that carries it."""

LENGTHS = (5, 1, 4, 2, 3)
TOLERANCE = 1e-10


def check_objective(config: StrategyConfig) -> None:
    """Hold an objective to its contract.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    objective = config.build()
    assert isinstance(objective, Objective), f"{config.type}: its config has to build an Objective."
    _check_needs(objective.loss, objective.needs, config.type)
    inputs = _inputs(objective.needs)
    _check_loss(objective.loss, lambda: config.build().loss, inputs, config.type)
    _check_policy_loss(objective, inputs, config.type)
    masked = config.model_copy(update={"mask_truncated": True}).build()
    truncated_RT = inputs.mask_RT & inputs.truncated_R[:, None]
    _require(
        all(not gradient_RT[truncated_RT].any() for gradient_RT in _gradients(masked.loss, inputs)),
        config.type,
        "with mask_truncated, truncated responses have no gradient",
    )


def check_term(config: StrategyConfig) -> None:
    """Hold a term to its contract.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    term = config.build()
    assert isinstance(term, Term), f"{config.type}: its config has to build a Term."
    _check_needs(term.loss, term.needs, config.type)
    _check_loss(term.loss, lambda: config.build().loss, _inputs(term.needs), config.type)


def _check_needs(loss: LossFunction, needs: frozenset[str], name: str) -> None:
    _require(needs <= OPTIONAL.keys(), name, f"needs are among {sorted(OPTIONAL)}")
    loss(_inputs(frozenset(OPTIONAL)))  # what it raises with everything at hand is its own error
    try:
        loss(_inputs(needs))
    except Exception as error:
        raise AssertionError(f"{name}: it reads only inputs that its needs declare.") from error
    for need in sorted(needs):
        try:
            loss(_inputs(needs - {need}))
        except Exception:
            continue
        raise AssertionError(f"{name}: what it declares as a need, it reads; without '{need}' it did not fail.")


def _check_loss(loss: LossFunction, fresh: Callable[[], LossFunction], inputs: ObjectiveInput, name: str) -> None:
    before = _copies(inputs)
    random_state = torch.get_rng_state()
    result = loss(inputs)
    _require(result.value.shape == (), name, "the loss is a scalar")
    unchanged = all(torch.equal(tensor, getattr(inputs, field)) for field, tensor in before.items())
    _require(unchanged, name, "the inputs are left as they were")
    gradients = _gradients(loss, inputs)
    _require(bool(result.value.isfinite()), name, "the loss is finite")
    _require(all(bool(gradient.isfinite().all()) for gradient in gradients), name, "gradients are finite")
    _require(any(bool(gradient.any()) for gradient in gradients), name, "a gradient reaches logp_RT or entropy_RT")
    _require(all(not gradient_RT[~inputs.mask_RT].any() for gradient_RT in gradients), name, "padding has no gradient")
    for metric, values_R in result.metrics.items():
        _require(values_R.shape == (len(LENGTHS),), name, f"the metric '{metric}' has one value per response")
        _require(not values_R.requires_grad, name, f"the metric '{metric}' is detached")
        _require(bool((values_R.isfinite() | values_R.isnan()).all()), name, f"the metric '{metric}' is finite or NaN")

    again, again_gradients = fresh()(inputs), _gradients(fresh(), inputs)
    same = torch.equal(result.value, again.value) and all(map(torch.equal, gradients, again_gradients))
    _require(same and _equal(result.metrics, again.metrics), name, "the same inputs give the same loss")
    _require(torch.equal(random_state, torch.get_rng_state()), name, "the global random state is left alone")

    wide, wide_gradients = loss(_padded(inputs)), _gradients(loss, _padded(inputs))
    columns = inputs.mask_RT.shape[1]
    _require(
        _close(result.value, wide.value)
        and _equal(result.metrics, wide.metrics)
        and all(_close(ours, theirs[:, :columns]) for ours, theirs in zip(gradients, wide_gradients, strict=True)),
        name,
        "what stands on padding, and how much of it, changes nothing",
    )

    parts = [_rows(inputs, rows) for rows in (slice(0, 1), slice(1, 3), slice(3, None))]
    total = torch.stack([loss(part).value for part in parts]).sum()
    part_gradients = [torch.cat(pieces) for pieces in zip(*(_gradients(loss, part) for part in parts), strict=True)]
    part_metrics = {key: torch.cat([loss(part).metrics[key] for part in parts]) for key in result.metrics}
    _require(
        _close(result.value, total)
        and all(map(_close, gradients, part_gradients))
        and _equal(result.metrics, part_metrics),
        name,
        "micro-batches add up to the whole batch",
    )


def _check_policy_loss(objective: Objective, inputs: ObjectiveInput, name: str) -> None:
    logp_gradient_RT = _gradients(objective.policy_loss, inputs)[0]
    _require(not logp_gradient_RT[~inputs.selected_RT].any(), name, "the policy loss uses selected tokens only")

    idle = replace(inputs, advantage_R=torch.zeros_like(inputs.advantage_R))
    _require(
        not _gradients(objective.policy_loss, idle)[0].any(), name, "without advantages the policy loss has no gradient"
    )

    logp_RT = inputs.logp_RT.detach()
    on_policy = replace(inputs, old_logp_RT=logp_RT, behaviour_logp_RT=logp_RT)
    slope_R = _gradients(objective.policy_loss, on_policy)[0].sum(dim=1) * inputs.advantage_R
    _require(
        bool((slope_R[inputs.selected_RT.any(dim=1)] < 0).all()),
        name,
        "on the old policy, making a response with a positive advantage likelier lowers the policy loss",
    )


def _inputs(needs: frozenset[str]) -> ObjectiveInput:
    """Return five ragged responses off the old policy, one without a selected token, one truncated, three off view."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(shape, dtype=torch.float64, generator=generator)

    mask_RT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    logp_RT = -normal(1.0).abs() - 0.1
    old_logp_RT = logp_RT + normal(0.1)
    extra = {"entropy_RT": normal(1.0).abs().requires_grad_(), "reference_logp_RT": logp_RT + normal(0.3)}
    return ObjectiveInput(
        logp_RT=logp_RT.clone().requires_grad_(),
        old_logp_RT=old_logp_RT,
        behaviour_logp_RT=old_logp_RT + normal(0.5),
        mask_RT=mask_RT,
        selected_RT=mask_RT & (torch.arange(max(LENGTHS)) != 1) & (torch.tensor(LENGTHS) != 2)[:, None],
        advantage_R=torch.tensor([1.2, -0.7, -0.4, 0.9, 0.3], dtype=torch.float64),
        truncated_R=torch.tensor([True, False, False, False, False]),
        off_view_R=torch.tensor([False, False, True, True, True]),
        beta_R=torch.full((len(LENGTHS),), 0.5, dtype=torch.float64),
        cap_R=torch.full((len(LENGTHS),), 2.0, dtype=torch.float64),
        n_responses=float(2 * len(LENGTHS)),
        n_tokens=float(2 * sum(LENGTHS)),
        **{field: extra[field] for need, field in OPTIONAL.items() if need in needs},
    )


def _gradients(loss: LossFunction, inputs: ObjectiveInput) -> list[Tensor]:
    leaves = [leaf for leaf in (inputs.logp_RT, inputs.entropy_RT) if leaf is not None]
    value = loss(inputs).value
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if own is None else own for leaf, own in zip(leaves, found, strict=True)]


def _copies(inputs: ObjectiveInput) -> dict[str, Tensor]:
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: value.detach().clone() for name, value in values.items() if isinstance(value, Tensor)}


def _padded(inputs: ObjectiveInput) -> ObjectiveInput:
    """Return the inputs with three more columns, and numbers on all padding that would be noticed."""
    generator = torch.Generator().manual_seed(1)
    wide: dict[str, Any] = {}
    for name, tensor in _copies(inputs).items():
        if not name.endswith("_RT"):
            continue
        padded_RT = torch.nn.functional.pad(tensor, (0, 3))
        if tensor.is_floating_point():
            noise_RT = 10 * torch.randn(padded_RT.shape, dtype=tensor.dtype, generator=generator)
            padded_RT = torch.where(torch.nn.functional.pad(inputs.mask_RT, (0, 3)), padded_RT, noise_RT)
        wide[name] = padded_RT.requires_grad_(getattr(inputs, name).requires_grad)
    return replace(inputs, **wide)


def _rows(inputs: ObjectiveInput, rows: slice) -> ObjectiveInput:
    part: dict[str, Any] = {
        name: tensor[rows].requires_grad_(getattr(inputs, name).requires_grad)
        for name, tensor in _copies(inputs).items()
    }
    return replace(inputs, **part)


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(_close(left[name], right[name]) for name in left)


def _require(holds: bool, name: str, rule: str) -> None:
    if not holds:
        raise AssertionError(f"{name}: the rule is broken that {rule}.")
