"""Noise: what an attack does without looking."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space, StepSpace, check_lengths
from saei.config.strategy import Frac, StrategyConfig


class Noise(Attack):
    """Adds noise and never asks the criterion: the control that tells whether the direction of an attack matters.

    ``signs`` has the size of a one-step attack in every pixel, in random directions. Source: original.
    """

    spaces = frozenset({"pixels", "embeddings"})
    origin = "noisy"

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            distribution: ``signs`` is plus or minus the radius, ``uniform`` is uniform within it, ``gaussian`` has it
                as its standard deviation and no bound.
            radius: Size of the noise, in units of ``step_space``.
            step_space: Unit of the radius. Of pixels: ``pixel``, the [0, 1] range, or ``normalised``, the model's
                standard deviations. Of embeddings: ``rms``, ``distance`` or ``neftune``; see ``text-pgd``.
        """

        type: Literal["noise"] = "noise"
        distribution: Literal["signs", "uniform", "gaussian"] = "signs"
        radius: Frac = Field(default=Fraction(2, 255), ge=0)
        step_space: StepSpace = "pixel"

        @model_validator(mode="after")
        def _within_the_range(self) -> Self:
            check_lengths(self.step_space, radius=self.radius)
            return self

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.ball = "none" if self.config.distribution == "gaussian" else "linf"

    def radius(self, block: BlockSpace) -> Tensor | float | None:
        """Return the ball's radius in the block's coordinates, None for Gaussian noise."""
        return None if self.ball == "none" else self._size(block)

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the noisy point."""
        return tuple(
            self._moved(block.detach(), block_space, generators[example])
            for block, block_space, example in zip(start, space.blocks, space.examples, strict=True)
        )

    def _moved(self, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
        noise = self._draw(start, generator) * self._size(space)
        moved = project(start + noise, start, self.radius(space), space)
        return snap(moved, start, self.radius(space), space)

    def _size(self, block: BlockSpace) -> Tensor | float:
        return block.length(self.config.radius, self.config.step_space)

    def _draw(self, block: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.distribution == "gaussian":
            return torch.randn(block.shape, generator=generator, dtype=block.dtype).to(block.device)
        uniform = 2 * torch.rand(block.shape, generator=generator, dtype=block.dtype).to(block.device) - 1
        return uniform if self.config.distribution == "uniform" else torch.where(uniform < 0, -1.0, 1.0).to(block)
