"""No guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Guard
from saei.interventions.context import StepContext, Supply
from saei.types import Drops, ScoredGroup


class NoGuard(Guard):
    """Train on every group as it is, as the paper does."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["none"] = "none"

    config: Config
    needs_supply: ClassVar[bool] = False

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Drop nothing."""
        return [{} for _ in scored]
