"""The contracts of the parts that an objective has before its loss: advantages and weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.need import Need
from saei.objectives.advantages.base import Advantage
from saei.objectives.batch import UpdateBatch
from saei.objectives.weights.base import Weight
from saei.testing.objective_inputs import copies, update_batch, wider
from saei.testing.rules import (
    config_of,
    only_needs_read,
    random_state_untouched,
    require,
    require_filled,
    require_read,
    seeded,
)
from saei.types import ADVERSARIAL, CLEAN, Example, Grade, Group, Response, ScoredGroup, View, ViewRecord

REWARDS = ((1.0, 0.0, 0.1, 0.9), (1.0, 1.0, 1.0), (0.0,), (0.25, 0.5))
"""Rewards of the groups that advantages are checked on; the second has no spread, the third one response."""


def check_weight(subject: Strategy | StrategyConfig) -> None:
    """Hold a weight to its contract.

    It sees an update batch of two groups with responses of one to five tokens, or each of the groups. Needs other than
    ``eos``, ``template`` and log-probabilities are filled with numbers between 0 and 2.

    Args:
        subject: The weight or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    weight = config.build()
    name = config.type
    require(isinstance(weight, Weight), name, "the config of a weight builds a Weight")
    require_filled(weight.needs, name, grad=False)
    total_weight = 0.0
    for batch in _batches(weight):
        weights = _check_numbers(
            partial(_weigh, weight, batch),
            partial(_weigh, weight, batch),
            partial(_tensors_of_batch, batch),
            name=name,
            given="update batch",
            noun="weights",
        )
        require(bool((weights >= 0).all()), name, "no weight is negative")
        require(
            torch.equal(weights, _weigh(config.build(), wider(batch))),
            name,
            "what stands on padding, and how much of it, changes nothing",
        )
        late = _weigh(weight, batch, progress=1.0)
        require(
            bool((late.isfinite() & (late >= 0)).all()),
            name,
            "weights are finite and not negative to the end of the training",
        )
        _check_weight_metrics(weight, batch, name)
        total_weight += float(weights.sum())
    require(total_weight > 0, name, "some tokens of some response have weight")
    require_read(weight.needs, name, lambda need: _weigh(weight, update_batch(weight.needs - {need})))


def _check_weight_metrics(weight: Weight, batch: UpdateBatch, name: str) -> None:
    metrics, wide = weight.metrics(batch), weight.metrics(wider(batch))
    for metric, values_R in metrics.items():
        require(values_R.shape == (len(batch.rows),), name, f"the metric '{metric}' has one value per response")
        require(bool((values_R.isfinite() | values_R.isnan()).all()), name, f"the metric '{metric}' is finite or NaN")
        same = torch.allclose(values_R, wide[metric], rtol=0, atol=0, equal_nan=True)
        require(same, name, f"what stands on padding does not change the metric '{metric}'")


def check_advantage(subject: Strategy | StrategyConfig) -> None:
    """Hold an advantage to its contract.

    The groups have one to four responses, from one view or two; one group's rewards are all equal. Needs are filled
    with numbers between 0 and 2.

    Args:
        subject: The advantage or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    advantage = config.build()
    name = config.type
    require(isinstance(advantage, Advantage), name, "the config of an advantage builds an Advantage")
    require_filled(advantage.needs, name, policies=("current", "reference"), grad=False)
    step_rewards = tuple(reward for group in REWARDS for reward in group)
    effect = 0.0
    for scored in (_scored(rewards, advantage.needs) for rewards in REWARDS):
        advantages = _check_numbers(
            partial(_estimate, advantage, scored, step_rewards),
            partial(_estimate, config.build(), scored, step_rewards),
            partial(_tensors_of_group, scored),
            name=name,
            given="group",
            noun="advantages",
        )
        effect += float(advantages.abs().sum()) if len(set(scored.rewards)) > 1 else 0.0
    require(effect > 0, name, "where rewards differ, some response has an advantage")
    require_read(
        advantage.needs,
        name,
        lambda need: advantage.estimate(_scored(REWARDS[0], advantage.needs - {need}), step_rewards),
    )


def _check_numbers(
    compute: Callable[[], Tensor],
    recompute: Callable[[], Tensor],
    tensors: Callable[[], Iterable[Tensor]],
    *,
    name: str,
    given: str,
    noun: str,
) -> Tensor:
    """Check the rules that weights and advantages share.

    Args:
        compute: Computes the numbers.
        recompute: Computes them a second time.
        tensors: Returns the tensors that they are computed from.
        name: Name of the strategy.
        given: What these tensors belong to.
        noun: What the numbers are.

    Returns:
        The numbers.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    before = [tensor.clone() for tensor in tensors()]
    with random_state_untouched(name):
        numbers = compute()
    require(all(map(torch.equal, before, tensors())), name, f"the {given} is left as it was")
    require(bool(numbers.isfinite().all()), name, f"{noun} are finite")
    require(not numbers.requires_grad, name, f"{noun} are detached")
    require(torch.equal(numbers, recompute()), name, f"the same {given} gives the same {noun}")
    return numbers


def _batches(weight: Weight) -> list[UpdateBatch]:
    """Return the update batch, or one for each of its groups, with nothing but the weight's needs filled."""
    batch = update_batch(weight.needs)
    if not weight.per_group:
        return [batch]
    groups = []
    for index in sorted({row.index for row in batch.rows}):
        rows = [n for n, row in enumerate(batch.rows) if row.index == index]
        tensors = {field: value[rows] for field, value in copies(batch).items()}
        statistics = {need: value[rows] for need, value in batch.statistics.items()}
        groups.append(replace(batch, rows=tuple(batch.rows[n] for n in rows), statistics=statistics, **tensors))
    return groups


def _weigh(weight: Weight, batch: UpdateBatch, progress: float = 0.0) -> Tensor:
    """Return the weights of all tokens that are not padding, in one dimension."""
    name = weight.name()
    with torch.no_grad(), only_needs_read(name):
        weight_RT = weight.weigh(batch, progress=progress, generator=seeded())
    require(weight_RT.shape == batch.mask_RT.shape, name, "there is one weight per token")
    return weight_RT[batch.mask_RT]


def _estimate(advantage: Advantage, scored: ScoredGroup, rewards: Sequence[float]) -> Tensor:
    """Return the advantages of all responses, or of all their tokens, in one dimension."""
    name, responses = advantage.name(), scored.group.responses
    with only_needs_read(name):
        values = advantage.estimate(scored, rewards)
    require(len(values) == len(responses), name, "there is one advantage, or one tensor of them, per response")
    per_token = [isinstance(value, Tensor) for value in values]
    require(all(per_token) or not any(per_token), name, "advantages are per token for all responses, or for none")
    for value, response in zip(values, responses, strict=True):
        fits = not isinstance(value, Tensor) or value.shape == (len(response),)
        require(fits, name, "a response's tensor has one advantage per token")
    tensors = [value if isinstance(value, Tensor) else torch.tensor([value]) for value in values]
    return torch.cat([tensor.double() for tensor in tensors])


def _tensors_of_batch(batch: UpdateBatch) -> list[Tensor]:
    return list(copies(batch).values())


def _tensors_of_group(scored: ScoredGroup) -> list[Tensor]:
    tensors = [tensor for each in scored.group.responses for tensor in (each.entropy_T, each.behaviour_logp_T)]
    return tensors + list(scored.statistics.values())


def _scored(rewards: Sequence[float], needs: Collection[Need]) -> ScoredGroup:
    """Return a group with these rewards; the first two responses are from the clean view, the others adversarial."""
    generator = torch.Generator().manual_seed(len(rewards))
    example = Example("e", "q", "a")
    nothing = torch.zeros(1, 1, dtype=torch.long)
    views = tuple(View(example, origin, nothing[0], nothing, index=5) for origin in (CLEAN, ADVERSARIAL))
    responses = tuple(
        Response(
            torch.arange(length),
            "x",
            -torch.rand(length, generator=generator),
            2 * torch.rand(length, generator=generator),
            truncated=False,
        )
        for length in range(1, len(rewards) + 1)
    )
    drawn = tuple(int(n >= 2) for n in range(len(rewards)))
    grades = tuple(Grade(reward, correct=reward > 0.5) for reward in rewards)
    record = ViewRecord(seed=0, strength=0.5, distances={})
    mask_NT = torch.ones(len(rewards), len(rewards)).tril()  # the n-th response has n tokens
    statistics = {need: 2 * torch.rand(mask_NT.shape, generator=generator) * mask_NT for need in sorted(needs, key=str)}
    return ScoredGroup(Group(example, views, responses, drawn, drawn, records=(record,)), grades, statistics)
