"""Gates: which groups are attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Gate
from saei.interventions.context import SamplingContext
from saei.types import Response, View


class Always(Gate):
    """Attack every group, as the paper does."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["always"] = "always"

    config: Config

    def opens(self, view: View, responses: Sequence[Response], ctx: SamplingContext) -> bool:
        """Return True."""
        return True


class ZeroVariance(Gate):
    """Attack only groups whose clean responses are all right or all wrong: they teach nothing as they are.

    Counted on accuracy, not on the reward, whose format part would hide it; under a graded reward, on that. Source:
    original.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["zero-variance"] = "zero-variance"

    config: Config

    def opens(self, view: View, responses: Sequence[Response], ctx: SamplingContext) -> bool:
        """Return whether the grades do not vary."""
        return not ctx.varies(ctx.grade(view, responses))
