"""Gates: which groups are attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Gate
from saei.interventions.context import StepContext, Supply
from saei.types import Response, View


class Always(Gate):
    """Attack every group, as the paper does."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["always"] = "always"

    config: Config
    needs_supply: ClassVar[bool] = False

    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        """Leave none alone."""
        return [None] * len(views)


class ZeroVariance(Gate):
    """Attack only groups whose clean responses are all right or all wrong: they teach nothing as they are.

    Counted on accuracy, not on the reward, whose format part would hide it; under a graded reward, on that. Source:
    original.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["zero-variance"] = "zero-variance"

    config: Config
    reasons: ClassVar[tuple[str, ...]] = ("varies",)

    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        """Leave those alone whose grades vary: ``varies``."""
        assert supply is not None
        grades = map(supply.grade, views, responses)
        return ["varies" if supply.varies(of_group) else None for of_group in grades]
