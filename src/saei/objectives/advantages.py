"""Advantages: what a response's reward is compared with, and by what the difference is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from saei.config.strategy import Section
from saei.types import ScoredGroup, TrainGroup

Array: TypeAlias = NDArray[np.float64]

EPSILON = 1e-4
"""Added to every standard deviation, as in GRPO's common implementations."""


class AdvantageConfig(Section):
    """How rewards become advantages.

    Attributes:
        baseline: What is subtracted from a reward. ``pooled``: the mean of the group, whatever view its
            responses were drawn from (GRPO, https://arxiv.org/abs/2402.03300). ``per-origin``: the mean of the
            group's responses of the same origin. ``leave-one-out``: the mean of the group's other responses
            (RLOO, https://arxiv.org/abs/2402.14740).
        scale: What the difference is divided by, plus 1e-4: the standard deviation (with n - 1) of the rewards
            of the ``group``, of its responses of the same origin (``per-origin``) or of all groups
            (``batch``). ``none`` keeps the difference (https://arxiv.org/abs/2503.20783).
    """

    baseline: Literal["pooled", "per-origin", "leave-one-out"] = "pooled"
    scale: Literal["group", "per-origin", "batch", "none"] = "group"


def advantages(
    groups: Sequence[ScoredGroup], config: AdvantageConfig, rewards: Sequence[float] | None = None
) -> list[TrainGroup]:
    """Return each group with one advantage per response, computed in float64.

    Equal rewards have advantage 0 exactly. So has a response without another to compare it with: alone in its
    group, or alone of its origin under the ``per-origin`` baseline. An origin without spread of its own, which
    includes an origin of one response, is scaled by its group's standard deviation: 1e-4 alone would turn a
    difference between origins into an advantage of thousands.

    Args:
        groups: Groups of the step.
        config: Baseline and scale.
        rewards: Rewards of all groups of the step, in all processes, whose standard deviation ``scale: batch`` takes;
            None for those of ``groups``.
    """
    if rewards is None:
        rewards = [reward for scored in groups for reward in scored.rewards]
    batch_std = _std(np.array(rewards))
    return [TrainGroup(scored, _of_group(scored, config, batch_std)) for scored in groups]


def _of_group(scored: ScoredGroup, config: AdvantageConfig, batch_std: float) -> tuple[float, ...]:
    rewards_N = np.array(scored.rewards, dtype=np.float64)
    origins_N = np.array([scored.group.origin(n) for n in range(rewards_N.size)])
    same_origin_NN = origins_N[:, None] == origins_N
    differences_N = rewards_N - _baseline(rewards_N, same_origin_NN, config)
    if config.scale == "none":
        scaled_N = differences_N
    elif config.scale == "batch":
        scaled_N = differences_N / (batch_std + EPSILON)
    else:
        group_std = _std(rewards_N)
        std_N = np.full_like(rewards_N, group_std)
        if config.scale == "per-origin":
            std_N = np.array([_std(rewards_N[same_N]) or group_std for same_N in same_origin_NN])
        scaled_N = differences_N / (std_N + EPSILON)
    return tuple(scaled_N.tolist())


def _baseline(rewards_N: Array, same_origin_NN: NDArray[np.bool_], config: AdvantageConfig) -> Array:
    if config.baseline == "pooled":
        return np.full_like(rewards_N, _mean(rewards_N))
    if config.baseline == "per-origin":
        return np.array([_mean(rewards_N[same_N]) for same_N in same_origin_NN])
    if rewards_N.size == 1:
        return rewards_N
    return np.array([_mean(np.delete(rewards_N, n)) for n in range(rewards_N.size)])


def _mean(rewards: Array) -> float:
    # Relative to the first, so that the mean of equal rewards is that reward and not a rounding beside it.
    return float(rewards[0] + np.mean(rewards - rewards[0]))


def _std(rewards: Array) -> float:
    return float(np.std(rewards - rewards[0], ddof=1)) if rewards.size > 1 else 0.0
