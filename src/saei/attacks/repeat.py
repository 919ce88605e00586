"""An attack several times in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import BlockSpace, Point, PointCriterion, Space
from saei.attacks.wrapper import Wrapper


class Repeat(Wrapper):
    """Runs another attack several times, each time from where it ended before. Source: original.

    Unlike more steps of one attack, every run has its own ball around its own start and ends on the grid, so the radius
    grows with the runs. What acts on the original picture does so in the first run; later ones change the picture that
    the model sees.
    """

    class Config(Wrapper.Config):
        """Fields.

        Attributes:
            times: Number of runs.
        """

        type: Literal["repeat"] = "repeat"
        times: int = Field(default=2, ge=2, le=1000)

    config: Config

    def radius(self, block: BlockSpace) -> Tensor | float | None:
        """Return the other attack's radius times the number of runs."""
        radius = self.of.radius(block)
        return None if radius is None else self.config.times * radius

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the point where the last run ended."""
        point = start
        for _ in range(self.config.times):
            point = self.of.attack(criterion, point, space=space, progress=progress, generators=generators)
            space = replace(space, blocks=tuple(replace(block, redraw=None) for block in space.blocks))
        return point
