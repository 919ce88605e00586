"""Guards: a last look at scored groups."""

from __future__ import annotations

from typing import Literal

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Guard
from saei.interventions.context import SamplingContext
from saei.types import ScoredGroup


class NoGuard(Guard):
    """Train on every group as it is, as the paper does."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["none"] = "none"

    config: Config

    def inspect(self, scored: ScoredGroup, ctx: SamplingContext) -> ScoredGroup:
        """Return the group unchanged."""
        return scored
