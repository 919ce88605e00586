"""The contract of criteria."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions.base import Criterion
from saei.need import Need
from saei.policy import Scores
from saei.testing.rules import (
    config_of,
    only_needs_read,
    random_state_untouched,
    require,
    require_filled,
    require_read,
    seeded,
)

LENGTHS = (4, 1, 5, 2)
TOLERANCE = 1e-6


def check_criterion(subject: Strategy | StrategyConfig) -> None:
    """Hold a criterion to its contract, on four ragged responses.

    Args:
        subject: The criterion or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    criterion, name = config.build(), config.type
    require(isinstance(criterion, Criterion), name, "the config of a criterion builds a Criterion")
    require_filled(criterion.needs, name, policies=("current",))
    scores = _scores(criterion.needs)
    _check_values(criterion, scores)
    values_NT = _values(criterion, scores)
    same = torch.equal(values_NT, _values(config.build(), scores))
    require(same, name, "the same scores give the same values")
    mask_NT = scores.mask_NT
    padded_NT = _values(criterion, _padded(scores))[:, : mask_NT.shape[1]]
    require(_close(values_NT[mask_NT], padded_NT[mask_NT]), name, "what stands on padding changes nothing")
    alone = torch.cat([_values(criterion, _row(scores, n))[mask_NT[n : n + 1]] for n in range(len(LENGTHS))])
    require(_close(values_NT[mask_NT], alone), name, "a response's values do not depend on the others")
    weight_NT = _checked_weights(config, mask_NT)
    for pooled in (False, True):
        _check_gradient(criterion, scores, weight_NT, pooled=pooled)

    def values_without(need: Need) -> object:
        rest = {other: values for other, values in scores.statistics.items() if other != need}
        return criterion.per_token(replace(scores, statistics=rest))

    require_read(criterion.needs, name, values_without)


def _check_values(criterion: Criterion, scores: Scores) -> None:
    name = criterion.name()
    leaves = _leaves(scores)
    before = [leaf.detach().clone() for leaf in leaves]
    with random_state_untouched(name), only_needs_read(name):
        values_NT = criterion.per_token(scores)
    require(all(map(torch.equal, before, leaves)), name, "the scores are left as they were")
    require(values_NT.shape == scores.mask_NT.shape, name, "there is one value per token")
    require(bool(values_NT.isfinite().all()), name, "values are finite, on padding too")
    require(values_NT.requires_grad, name, "values are differentiable")


def _checked_weights(config: StrategyConfig, mask_NT: Tensor) -> Tensor | None:
    """Return a group's weights, after a check that they are finite, of the right shape, and the generator's alone."""
    with random_state_untouched(config.type):
        first, second = (_weights(config, mask_NT) for _ in range(2))
    if first is None or second is None:
        require(first is second, config.type, "the same generator gives the same weights")
        return None
    fits = first.shape == mask_NT.shape and bool(first.isfinite().all()) and not first.requires_grad
    require(fits, config.type, "there is one finite weight per token, without gradient")
    require(torch.equal(first, second), config.type, "the same generator gives the same weights")
    return first


def _weights(config: StrategyConfig, mask_NT: Tensor) -> Tensor | None:
    criterion: Criterion = config.build()
    return criterion.draw_weights(mask_NT, seeded())


def _check_gradient(criterion: Criterion, scores: Scores, weight_NT: Tensor | None, *, pooled: bool) -> None:
    """Check that only selected tokens have a gradient of J, and that J of no token is 0 with gradient 0."""
    name = criterion.name()
    selected_NT = scores.mask_NT & (torch.arange(max(LENGTHS)) != 1)
    leaves = _leaves(scores)

    def value_and_gradients(chosen_NT: Tensor) -> tuple[Tensor, list[Tensor]]:
        J = criterion.value(scores, chosen_NT, pooled=pooled, weight_NT=weight_NT)
        gradients = torch.autograd.grad(J, leaves, allow_unused=True)
        return J, [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ]

    J, gradients = value_and_gradients(selected_NT)
    require(J.shape == () and bool(J.isfinite()), name, "J is a finite scalar")
    require(any(bool(gradient.any()) for gradient in gradients), name, "a gradient reaches the scores")
    elsewhere = any(bool(gradient[~selected_NT].any()) for gradient in gradients)
    require(not elsewhere, name, "it reaches selected tokens only")
    J, gradients = value_and_gradients(torch.zeros_like(selected_NT))
    zero = float(J.detach()) == 0 and not any(bool(gradient.any()) for gradient in gradients)
    require(zero, name, "J of an empty selection is 0, and so is its gradient")


def _scores(needs: frozenset[Need]) -> Scores:
    generator = torch.Generator().manual_seed(0)
    mask_NT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]

    def positive() -> Tensor:
        return (torch.rand(mask_NT.shape, generator=generator) + 0.1) * mask_NT

    logp_NT = (-positive()).requires_grad_()
    return Scores(
        logp_NT, None, mask_NT, {need: positive().requires_grad_(bool(need.grad)) for need in sorted(needs, key=str)}
    )


def _leaves(scores: Scores) -> list[Tensor]:
    return [leaf for leaf in (scores.logp_NT, *scores.statistics.values()) if leaf.requires_grad]


@torch.no_grad()
def _values(criterion: Criterion, scores: Scores) -> Tensor:
    return criterion.per_token(scores)


def _padded(scores: Scores) -> Scores:
    """Return the scores with three more columns and with 7 on all padding."""
    mask_NT = pad(scores.mask_NT, (0, 3))

    def noisy(values_NT: Tensor) -> Tensor:
        return torch.where(mask_NT, pad(values_NT.detach(), (0, 3)), 7.0)

    statistics = {need: noisy(values_NT) for need, values_NT in scores.statistics.items()}
    return Scores(noisy(scores.logp_NT), None, mask_NT, statistics)


def _row(scores: Scores, n: int) -> Scores:
    rows = slice(n, n + 1)
    statistics = {need: values_NT[rows] for need, values_NT in scores.statistics.items()}
    return Scores(scores.logp_NT[rows], None, scores.mask_NT[rows], statistics)


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=0, atol=TOLERANCE)
