"""The advantage of pass@k training: k responses succeed together if one of them is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.types import ScoredGroup


class PassAtK(Advantage):
    """The mean advantage of all sets of k responses of the group that a response belongs to, 1 if one is right, else 0.

    Of n responses c are right. With ``ρ = 1 - C(n - c, k) / C(n, k)``, the share of sets with a right answer, and
    ``σ = sqrt(ρ (1 - ρ))``, a right response has ``(1 - ρ) / σ`` and a wrong one
    ``(1 - ρ - C(n - c - 1, k - 1) / C(n - 1, k - 1)) / σ``. Where all sets are alike, all have 0; so has a group that a
    guard left with fewer than k responses. It looks at correctness alone, not at a part of the reward for the format.
    With k = 1 it is GRPO's advantage, with the standard deviation over n.

    Source: https://arxiv.org/abs/2508.10751.
    """

    relative: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            k: Responses of a set, at most as many as a group has; the default is ours.
        """

        type: Literal["pass-at-k"] = "pass-at-k"
        k: int = Field(default=2, ge=1, le=4096)

    config: Config

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return one advantage per response."""
        right = [grade.correct for grade in scored.grades]
        n, c, k = len(right), sum(right), self.config.k
        failing, total = math.comb(n - c, k), math.comb(n, k)
        if failing in (0, total):
            return (0.0,) * n
        spread = math.sqrt(failing * (total - failing)) / total
        of_right = failing / total
        of_wrong = of_right - math.comb(n - c - 1, k - 1) / math.comb(n - 1, k - 1)
        return tuple((of_right if each else of_wrong) / spread for each in right)
