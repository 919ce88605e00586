"""The contracts of an objective's parts that come before its loss: advantages and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.objectives.advantages.base import Advantage, Advantages
from saei.objectives.batch import UpdateBatch
from saei.objectives.weights.base import Weight
from saei.testing.objective_inputs import copies, update_batch, wider
from saei.testing.rules import config_of, random_state_untouched, require, require_filled, seeded
from saei.types import ADVERSARIAL, CLEAN, Example, Grade, Group, Response, ScoredGroup, View

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
    weighed = 0.0
    for batch in _batches(weight):
        before = copies(batch)
        with random_state_untouched(name):
            weight_RT = _weigh(weight, batch)
        unchanged = all(torch.equal(tensor, getattr(batch, field)) for field, tensor in before.items())
        require(unchanged, name, "the update batch is left as it was")
        counted_RT = weight_RT[batch.mask_RT]
        require(bool(counted_RT.isfinite().all()), name, "weights are finite")
        require(bool((counted_RT >= 0).all()), name, "no weight is negative")
        require(not weight_RT.requires_grad, name, "weights are detached")
        require(
            torch.equal(counted_RT, _weigh(weight, batch)[batch.mask_RT]),
            name,
            "the same update batch gives the same weights",
        )
        wide = wider(batch)
        require(
            torch.equal(counted_RT, _weigh(config.build(), wide)[wide.mask_RT]),
            name,
            "what stands on padding, and how much of it, changes nothing",
        )
        late_RT = _weigh(weight, batch, progress=1.0)[batch.mask_RT]
        require(
            bool((late_RT.isfinite() & (late_RT >= 0)).all()),
            name,
            "weights are finite and not negative to the end of the training",
        )
        weighed += float(counted_RT.sum())
    require(weighed > 0, name, "some tokens of some response have weight")
    for need in weight.needs:
        try:
            _weigh(weight, update_batch(weight.needs - {need}))
        except Exception:  # whatever the strategy raises where something is missing
            continue
        raise AssertionError(f"{name}: what it declares as a need, it reads; without {need} it did not fail.")


def check_advantage(subject: Strategy | StrategyConfig) -> None:
    """Hold an advantage to its contract.

    The groups have one to four responses, from one view or two; one group's rewards are all equal.

    Args:
        subject: The advantage or its config.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    advantage = config.build()
    name = config.type
    require(isinstance(advantage, Advantage), name, "the config of an advantage builds an Advantage")
    rewards = [reward for group in REWARDS for reward in group]
    effect = 0.0
    for scored in map(_scored, REWARDS):
        responses = scored.group.responses
        before = [(each.entropy_T.clone(), each.behaviour_logp_T.clone()) for each in responses]
        with random_state_untouched(name):
            values = advantage.estimate(scored, tuple(rewards))
        unchanged = all(
            torch.equal(entropy_T, each.entropy_T) and torch.equal(logp_T, each.behaviour_logp_T)
            for (entropy_T, logp_T), each in zip(before, responses, strict=True)
        )
        require(unchanged, name, "the group is left as it was")
        require(len(values) == len(responses), name, "there is one advantage, or one tensor of them, per response")
        per_token = [isinstance(value, Tensor) for value in values]
        require(all(per_token) or not any(per_token), name, "advantages are per token for all responses, or for none")
        for value, response in zip(values, responses, strict=True):
            fits = not isinstance(value, Tensor) or value.shape == (len(response),)
            require(fits, name, "a response's tensor has one advantage per token")
        numbers = _flat(values)
        require(bool(numbers.isfinite().all()), name, "advantages are finite")
        require(not numbers.requires_grad, name, "advantages are detached")
        again = _flat(config.build().estimate(scored, tuple(rewards)))
        require(torch.equal(numbers, again), name, "the same group has the same advantages")
        effect += float(numbers.abs().sum()) if len(set(scored.rewards)) > 1 else 0.0
    require(effect > 0, name, "where rewards differ, some response has an advantage")


def _batches(weight: Weight) -> list[UpdateBatch]:
    """Return the update batch, or its groups, with what the weight needs and nothing else."""
    batch = update_batch(weight.needs)
    if not weight.per_group:
        return [batch]
    groups = []
    for index in sorted({row.index for row in batch.rows}):
        places = [place for place, row in enumerate(batch.rows) if row.index == index]
        part = {field: value[places] for field, value in copies(batch).items()}
        statistics = {need: value[places] for need, value in batch.statistics.items()}
        groups.append(replace(batch, rows=tuple(batch.rows[place] for place in places), statistics=statistics, **part))
    return groups


def _weigh(weight: Weight, batch: UpdateBatch, progress: float = 0.0) -> Tensor:
    name = weight.name()
    try:
        with torch.no_grad():
            weight_RT = weight.weigh(batch, progress=progress, generator=seeded())
    except KeyError as error:
        raise AssertionError(f"{name}: the rule is broken that it reads only what its needs declare.") from error
    require(weight_RT.shape == batch.mask_RT.shape, name, "there is one weight per token")
    return weight_RT


def _flat(values: Advantages) -> Tensor:
    tensors = [value if isinstance(value, Tensor) else torch.tensor([value]) for value in values]
    return torch.cat([tensor.double() for tensor in tensors])


def _scored(rewards: Sequence[float]) -> ScoredGroup:
    """Return a group with these rewards; from the third response on they were drawn from the adversarial view."""
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
    return ScoredGroup(Group(example, views, responses, drawn, drawn), grades)
