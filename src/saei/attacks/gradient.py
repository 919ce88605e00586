"""The one loop of gradient attacks: start → gradient → normalise → step → project → clip."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space, StepSpace, check_lengths
from saei.config.strategy import Frac, StrategyConfig
from saei.errors import ModelError


class GradientAttack(Attack):
    """Follows the criterion's gradient inside a ball: ``x ← clip proj (x + step · sign ∇J)``.

    A positive step raises J. On a grid the criterion sees x rounded inside the ball while x itself moves freely (a
    straight-through gradient), so that steps shorter than the grid add up, and the result is the rounded x.

    To add one: derive, nest a ``Config``, implement ``steps``; another geometry overrides ``normalise`` and ``ball``.
    """

    spaces: ClassVar[frozenset[str]] = frozenset({"pixels", "embeddings"})

    class Config(StrategyConfig):
        """Fields of every gradient attack.

        Attributes:
            step: Length of one step, in units of ``step_space``.
            radius: Radius of the ball, None for the number of steps times the step.
            direction: Raise the criterion, or lower it as a control.
            random_start: Begin at a uniformly drawn point of the ball.
            step_space: Unit of step and radius: the [0, 1] pixel range, or the model's normalised pixels.
        """

        step: Frac = Field(default=Fraction(2, 255), ge=0)
        radius: Frac | None = Field(default=None, ge=0)
        direction: Literal["raise", "lower"] = "raise"
        random_start: bool = False
        step_space: StepSpace = "pixel"

        @model_validator(mode="after")
        def _within_the_range(self) -> Self:
            check_lengths(self.step_space, step=self.step, radius=self.radius)
            return self

        @property
        def begins_at_clean(self) -> bool:
            """Whether the first gradient is that at the start."""
            return not self.random_start

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        if self.config.radius is not None and self.config.step > self.config.radius and self.steps:
            warnings.warn(
                f"{self.name()}: a step of {self.config.step} leaves the ball of radius {self.config.radius} and is "
                "projected back onto it.",
                stacklevel=2,
            )

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps; 0 is the identity."""

    def normalise(self, gradient: Tensor) -> Tensor:
        """Return the direction of a step of length 1: the corner of the l-infinity ball."""
        return gradient.sign()

    def radius(self, block: BlockSpace) -> Tensor | float:
        """Return the ball's radius in the block's coordinates."""
        return block.length(self._radius, self.config.step_space)

    @property
    def _radius(self) -> Fraction:
        return self.steps * self.config.step if self.config.radius is None else self.config.radius

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the moved point.

        Raises:
            ModelError: If the criterion has no gradient with respect to any block.
            ConfigError: If a block has no unit of the name ``step_space``.
        """
        start = tuple(block.detach() for block in start)
        if self.steps == 0:
            return tuple(block.clone() for block in start)
        point = start
        if self.config.random_start:
            blocks = zip(start, space.blocks, space.examples, strict=True)
            point = tuple(self._random(block, own, generators[example]) for block, own, example in blocks)
        for _ in range(self.steps):
            gradients = example_gradients(criterion, self._snapped(point, start, space), space.examples)
            point = tuple(map(self._step, point, start, gradients, space.blocks))
        return self._snapped(point, start, space)

    def _step(self, block: Tensor, start: Tensor, gradient: Tensor, space: BlockSpace) -> Tensor:
        step = space.length(self.config.step, self.config.step_space)
        step = -step if self.config.direction == "lower" else step
        return self._inside(block + step * self.normalise(gradient), start, space)

    def _random(self, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
        """Return a point drawn uniformly from the cube around the start, projected onto the ball."""
        radius = float(self._radius)
        drawn = torch.empty(start.shape, dtype=start.dtype).uniform_(-radius, radius, generator=generator)
        move = drawn.to(start.device) * space.length(Fraction(1), self.config.step_space)
        return self._inside(start + move, start, space)

    def _inside(self, block: Tensor, start: Tensor, space: BlockSpace) -> Tensor:
        return project(block, start, self.radius(space), space, self.ball)

    def _snapped(self, point: Point, start: Point, space: Space) -> Point:
        return tuple(
            snap(block, origin, self.radius(own), own, self.ball)
            for block, origin, own in zip(point, start, space.blocks, strict=True)
        )


def example_gradients(criterion: PointCriterion, point: Point, examples: tuple[int, ...]) -> list[Tensor]:
    """Return dJ/dx per block, zero for all blocks of an example of which any gradient is not finite.

    Only the blocks are differentiated: the ``.grad`` of parameters behind the criterion stays as it is.

    Raises:
        ModelError: If the criterion has no gradient with respect to any block.
    """
    with torch.enable_grad():
        leaves = tuple(block.detach().requires_grad_() for block in point)
        J_B = criterion(leaves)
        found = (
            torch.autograd.grad(J_B.sum(), leaves, allow_unused=True) if J_B.requires_grad else (None,) * len(leaves)
        )
    if all(gradient is None for gradient in found):
        raise ModelError(
            "A gradient attack needs a criterion that depends differentiably on what it moves.",
            reason="No gradient reached it: the vision tower or the processor cuts it, or the prompt has no image.",
            remedy="Use a model whose vision tower is differentiable and not quantised, or the attack `noise`.",
        )
    gradients = [
        torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(leaves, found, strict=True)
    ]
    broken = {e for e, gradient in zip(examples, gradients, strict=True) if not bool(gradient.isfinite().all())}
    return [
        torch.zeros_like(gradient) if e in broken else gradient for e, gradient in zip(examples, gradients, strict=True)
    ]
