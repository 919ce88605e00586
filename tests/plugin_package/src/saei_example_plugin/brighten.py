"""An attack without a gradient: all pixels become brighter."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space
from saei.config.strategy import Frac, StrategyConfig


class Brighten(Attack):
    """Adds a constant to every editable pixel."""

    class Config(StrategyConfig):
        """Fields of ``example/brighten``.

        Attributes:
            step: The constant, in units of the [0, 1] pixel range.
        """

        type: Literal["example/brighten"] = "example/brighten"
        step: Frac = Fraction(2, 255)

    spaces = frozenset({"pixels"})
    ball = "linf"
    config: Config

    def radius(self, block: BlockSpace) -> Tensor | float:
        return float(self.config.step) * block.scale * block.units["pixel"]

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        return tuple(map(self._brighten, start, space.blocks))

    def _brighten(self, start: Tensor, block: BlockSpace) -> Tensor:
        radius = self.radius(block)
        change = radius if block.editable is None else radius * block.editable
        return snap(project(start + change, start, radius, block), start, radius, block)
