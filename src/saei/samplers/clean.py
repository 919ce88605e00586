"""Plain sampling, as in GRPO (arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.samplers.base import MOST_RESPONSES, Sampler, SamplingPlan, StepContext, Supply, clean_arm
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

    def plan(self) -> SamplingPlan:
        """Return one arm, the clean one."""
        return SamplingPlan((clean_arm(self.config.n, "n"),))

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view."""
        n = self.config.n
        drawn = step.sample(views, [n] * len(views))
        return [
            Group(view.example, (view,), tuple(responses), (0,) * n, (0,) * n)
            for view, responses in zip(views, drawn, strict=True)
        ]
