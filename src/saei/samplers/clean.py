"""Plain sampling, as in GRPO (arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.samplers.base import MOST_RESPONSES, Sampler, SamplingContext
from saei.types import Group, View


class Clean(Sampler):
    """All responses from the clean view."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            n: Responses per group.
        """

        type: Literal["clean"] = "clean"
        n: int = Field(default=12, ge=1, le=MOST_RESPONSES)

    config: Config

    @property
    def group_size(self) -> int:
        """``n``."""
        return self.config.n

    def draw(self, views: Sequence[View], ctx: SamplingContext) -> list[Group]:
        """Return one group per view."""
        n = self.config.n
        with ctx.phase("sample"):
            drawn = ctx.policy.sample(views, [n] * len(views), generators=ctx.generators(views))
        return [
            Group(view.example, (view,), tuple(own), (0,) * n, (0,) * n) for view, own in zip(views, drawn, strict=True)
        ]
