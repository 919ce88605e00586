"""The advantage that verl calls ``grpo_passk``: the best response alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from saei.config.strategy import StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import EPSILON, std
from saei.types import ScoredGroup


class GRPOPassK(Advantage):
    """The group's highest reward minus the second highest, for the best response; 0 for all others.

    If two share the highest reward, all have 0; so has a response without another in its group. It differs from
    ``pass-at-k``: there is no k, and rewards are compared, not correctness.

    Source: https://arxiv.org/abs/2503.19595, as in verl's ``compute_grpo_passk_outcome_advantage``.
    """

    relative: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            scale: ``none`` keeps the difference; ``group`` divides it by the standard deviation (with n - 1) of the
                group's rewards plus 1e-4, verl's default but for its 1e-6.
        """

        type: Literal["grpo-passk"] = "grpo-passk"
        scale: Literal["none", "group"] = "none"

    config: Config

    @property
    def optional_spread(self) -> str | None:
        """``scale``, unless it is ``none``."""
        return None if self.config.scale == "none" else "scale"

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return one advantage per response."""
        rewards_N = np.array(scored.rewards)
        advantages_N = np.zeros_like(rewards_N)
        if rewards_N.size > 1:
            second, highest = np.sort(rewards_N)[-2:]
            divisor = std(rewards_N) + EPSILON if self.config.scale == "group" else 1.0
            advantages_N[rewards_N.argmax()] = (highest - second) / divisor
        return tuple(advantages_N.tolist())
