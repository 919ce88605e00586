"""The advantage of QAE: a quantile in place of the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from saei.config.strategy import Frac, StrategyConfig
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import EPSILON, Array, std
from saei.types import ScoredGroup


class Quantile(Advantage):
    """Whether a response is right, 1 or 0, minus a quantile K of the group's, divided by their standard deviation.

    Of a group with at most a share 1 - K of right answers the quantile is 0, and only these have an advantage; of an
    easier one it is 1, and only wrong answers have one. It looks at correctness alone: of a reward with a part for the
    format, a quantile would be a matter of the format.

    Source: https://arxiv.org/abs/2509.22611.
    """

    relative: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            quantile: K.
            method: ``interpolated``: between the two order statistics around the quantile, as the authors' code does
                (``torch.quantile``), so that of 7 right answers among 12 the baseline is 0.4. ``order-statistic``: the
                smallest value that at least a share K of the group does not exceed, as in the paper's theory; it is
                0 or 1.
            scale: What the difference is divided by, plus 1e-4: the standard deviation (with n - 1) of the ``group``;
                ``none`` keeps the difference.
        """

        type: Literal["quantile"] = "quantile"
        quantile: Frac = Field(default=Fraction(2, 5), ge=0, le=1)
        method: Literal["interpolated", "order-statistic"] = "interpolated"
        scale: Literal["group", "none"] = "group"

    config: Config

    @property
    def optional_spread(self) -> str | None:
        """``scale``, unless it is ``none``."""
        return None if self.config.scale == "none" else "scale"

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> tuple[float, ...]:
        """Return one advantage per response."""
        right_N = np.array([float(grade.correct) for grade in scored.grades])
        advantages_N = right_N - self._baseline(np.sort(right_N))
        if self.config.scale == "group":
            advantages_N /= std(right_N) + EPSILON
        return tuple(advantages_N.tolist())

    def _baseline(self, sorted_N: Array) -> float:
        if self.config.method == "order-statistic":
            return float(sorted_N[max(0, math.ceil(self.config.quantile * sorted_N.size) - 1)])
        place = self.config.quantile * (sorted_N.size - 1)
        low, high = sorted_N[math.floor(place)], sorted_N[math.ceil(place)]
        return float(low + float(place - math.floor(place)) * (high - low))
