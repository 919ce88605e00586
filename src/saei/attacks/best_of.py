"""The best of several runs of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from saei.attacks.base import Point, PointCriterion, Space
from saei.attacks.wrapper import Wrapper


class BestOf(Wrapper):
    """Runs a random attack several times and takes for each example the run that raised the criterion most.

    Where the attack lowers the criterion, it takes the run that lowered it most. The criterion is that of the result,
    on the grid; what is no number loses. Restarts are those of PGD (arXiv 1706.06083). An attack that draws nothing at
    random, as its examples' generators tell, is run once. Each run costs one more value of the criterion.
    """

    class Config(Wrapper.Config):
        """Fields.

        Attributes:
            draws: Number of runs; one would be the attack itself.
        """

        type: Literal["best-of"] = "best-of"
        draws: int = Field(default=4, ge=2, le=1000)

    config: Config

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return for each example the best of its points."""
        best: Point = ()
        best_J_B = torch.empty(0)
        for _ in range(self.config.draws):
            states = [generator.get_state() for generator in generators]
            point = self.of.attack(criterion, start, space=space, progress=progress, generators=generators)
            drew = not all(torch.equal(old, new.get_state()) for old, new in zip(states, generators, strict=True))
            if not best and not drew:
                return point
            with torch.no_grad():
                J_B = criterion(point).detach()
            J_B = (-J_B if self.lowers else J_B).nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            if not best:
                best, best_J_B = point, J_B
                continue
            better_B = best_J_B < J_B
            examples = zip(best, point, space.examples, strict=True)
            best = tuple(new if better_B[example] else old for old, new, example in examples)
            best_J_B = torch.where(better_B, J_B, best_J_B)
        return best
