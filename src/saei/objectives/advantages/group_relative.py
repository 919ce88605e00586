"""The advantage of GRPO: what a reward is compared with, and by what the difference is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from saei.config.strategy import StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.types import ScoredGroup

Array: TypeAlias = NDArray[np.float64]

EPSILON = 1e-4
"""Added to every standard deviation, as in GRPO's common implementations."""


class GroupRelative(Advantage):
    """A reward minus a baseline from its own group, divided by a spread: GRPO's advantage and its relatives.

    Computed in float64. Equal rewards have advantage 0 exactly. So has a response without another to compare it with:
    alone in its group, or alone of its origin under the ``per-origin`` baseline. An origin without spread of its own,
    which includes an origin of one response, is scaled by its group's standard deviation: 1e-4 alone would turn a
    difference between origins into an advantage of thousands.

    Source: https://arxiv.org/abs/2402.03300; other baselines and scales as their fields say.
    """

    relative: ClassVar[bool] = True

    class Config(StrategyConfig):
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

        type: Literal["group-relative"] = "group-relative"
        baseline: Literal["pooled", "per-origin", "leave-one-out"] = "pooled"
        scale: Literal["group", "per-origin", "batch", "none"] = "group"

    config: Config

    @property
    def optional_spread(self) -> str | None:
        """``scale``, unless it is ``none``."""
        return None if self.config.scale == "none" else "scale"

    @property
    def mixes_origins(self) -> bool:
        """Whether the baseline is of all origins."""
        return self.config.baseline != "per-origin"

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return one advantage per response."""
        batch_std = std(np.array(rewards)) if self.config.scale == "batch" else 0.0
        return _advantages(scored, self.config, batch_std)


def _advantages(scored: ScoredGroup, config: GroupRelative.Config, batch_std: float) -> tuple[float, ...]:
    rewards_N = np.array(scored.rewards, dtype=np.float64)
    origins_N = np.array([scored.group.origin(n) for n in range(rewards_N.size)])
    same_origin_NN = origins_N[:, None] == origins_N
    differences_N = rewards_N - _baseline(rewards_N, same_origin_NN, config)
    if config.scale == "none":
        scaled_N = differences_N
    elif config.scale == "batch":
        scaled_N = differences_N / (batch_std + EPSILON)
    else:
        group_std = std(rewards_N)
        std_N = np.full_like(rewards_N, group_std)
        if config.scale == "per-origin":
            std_N = np.array([std(rewards_N[same_N]) or group_std for same_N in same_origin_NN])
        scaled_N = differences_N / (std_N + EPSILON)
    return tuple(scaled_N.tolist())


def _baseline(rewards_N: Array, same_origin_NN: NDArray[np.bool_], config: GroupRelative.Config) -> Array:
    if config.baseline == "pooled":
        return np.full_like(rewards_N, mean(rewards_N))
    if config.baseline == "per-origin":
        return np.array([mean(rewards_N[same_N]) for same_N in same_origin_NN])
    if rewards_N.size == 1:
        return rewards_N
    return np.array([mean(np.delete(rewards_N, n)) for n in range(rewards_N.size)])


def mean(rewards: Array) -> float:
    """Return the mean of some numbers, one at least; of equal ones exactly that number."""
    # Relative to the first, so that nothing is rounded where all are equal.
    return float(rewards[0] + np.mean(rewards - rewards[0]))


def std(rewards: Array) -> float:
    """Return the standard deviation with n - 1; of equal numbers, or of a single one, exactly 0."""
    return float(np.std(rewards - rewards[0], ddof=1)) if rewards.size > 1 else 0.0


def normalised(values: Array) -> Array:
    """Return numbers, one at least, less their mean, divided by their standard deviation plus ``EPSILON``."""
    return (values - mean(values)) / (std(values) + EPSILON)
