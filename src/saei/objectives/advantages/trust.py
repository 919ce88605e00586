"""The advantage of NoisyGRPO: a reward that is trusted the less, the less rewards differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import normalised, std
from saei.types import Group, ScoredGroup


class Trust(Advantage):
    """A posterior of how clean a response's view was and what the response earned.

    With z the group's rewards, and p their ``1 - level``, each normalised over the group, the posterior is
    ``z + w (p - z)``, normalised once more. The weight of the prior is ``w = v / (v + reward_variance)`` with
    ``v = alpha / (σ² + alpha)``, σ the standard deviation of the group's rewards: where rewards differ little, the
    responses to cleaner views are preferred, even if all of them are equal.

    The level of a response is the strength with which its view was made, and 0 for the clean view. As only
    differences count, any unit does as long as all views are made by the same attack: NoisyGRPO has a response each of
    the levels 0, 0.3, 0.6 and 0.9 of diffusion noise, trained under the clean view.

    Source: NoisyGRPO (https://arxiv.org/abs/2510.21122), as in its authors' code, with their numbers.
    """

    relative: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            alpha: The smaller, the sooner a spread of the rewards takes the prior's weight away.
            reward_variance: That of a reward about what a response is worth; the larger, the less the prior weighs.
        """

        type: Literal["trust"] = "trust"
        alpha: float = Field(default=0.01, gt=0.0, le=1e6)
        reward_variance: float = Field(default=0.1, gt=0.0, le=1e6)

    config: Config

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return one advantage per response."""
        rewards_N = np.array(scored.rewards)
        observed_N, prior_N = normalised(rewards_N), normalised(1 - np.array(_levels(scored.group)))
        prior_variance = self.config.alpha / (std(rewards_N) ** 2 + self.config.alpha)
        weight = prior_variance / (prior_variance + self.config.reward_variance)
        return tuple(normalised(observed_N + weight * (prior_N - observed_N)).tolist())


def _levels(group: Group) -> list[float]:
    """Return for each response the strength with which the view was made that it was drawn from."""
    of_views = (0.0, *(record.strength for record in group.records))
    assert len(of_views) == len(group.views), "each view but the first has a record"
    return [of_views[view] for view in group.sampled_from]
