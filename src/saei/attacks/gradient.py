"""The one loop of gradient attacks: start → gradient → accumulate → normalise → step → project → clip."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space, StepSpace, check_lengths
from saei.config.strategy import Frac, StrategyConfig
from saei.errors import ModelError

Schedule: TypeAlias = Literal["constant", "linear", "cosine", "inverse-sqrt"]


def step_share(schedule: Schedule, number: int, steps: int) -> float:
    """Return the share of the full length that step ``number`` of ``steps`` has, the first being 0."""
    done = number / steps
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1 / math.sqrt(number + 1) if schedule == "inverse-sqrt" else 1.0


class GradientAttack(Attack):
    """Follows the criterion's gradient inside a ball: ``x ← clip proj (x + step · sign ∇J)``.

    A positive step raises J. On a grid the criterion sees x rounded inside the ball while x itself moves freely (a
    straight-through gradient), so that steps shorter than the grid add up, and the result is the rounded x.

    To add one: derive, nest a ``Config``, implement ``steps``. Another geometry overrides ``normalise``, ``ball`` and
    ``random_move``; what remembers earlier gradients overrides ``accumulate``.
    """

    spaces = frozenset({"pixels", "embeddings"})

    class Config(StrategyConfig):
        """Fields of every gradient attack.

        Attributes:
            step: Length of one step, in units of ``step_space``.
            radius: Radius of the ball, None for the number of steps times the step.
            direction: Raise the criterion, or lower it as a control.
            random_start: Begin at a point drawn from the ball.
            step_space: Unit of step and radius. Of pixels: ``pixel``, the [0, 1] range, or ``normalised``, the model's
                standard deviations. Of embeddings: ``rms``, ``distance`` or ``neftune``; see ``text-pgd``.
            schedule: Lengths of step k = 0, 1, … of n, as shares of ``step``: ``constant`` 1, ``linear`` 1 - k/n,
                ``cosine`` (1 + cos πk/n) / 2, ``inverse-sqrt`` 1/√(k+1) as in subgradient methods. ``radius`` does
                not depend on it. Source of the choice: original.
        """

        step: Frac = Field(default=Fraction(2, 255), ge=0)
        radius: Frac | None = Field(default=None, ge=0)
        direction: Literal["raise", "lower"] = "raise"
        random_start: bool = False
        step_space: StepSpace = "pixel"
        schedule: Schedule = "constant"

        @model_validator(mode="after")
        def _within_the_range(self) -> Self:
            check_lengths(self.step_space, step=self.step, radius=self.radius)
            return self

        @model_validator(mode="after")
        def _has_steps_to_shorten(self) -> Self:
            if self.schedule != "constant" and getattr(self, "steps", None) == 1:  # with 0 the attack is the identity
                raise ValueError(
                    f"A schedule shortens the steps after the first one, and {self.type} makes 1. Raise steps, or "
                    "leave schedule at constant."
                )
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

    def accumulate(
        self, gradients: Sequence[Tensor], before: Sequence[Tensor] | None, space: Space
    ) -> Sequence[Tensor]:
        """Return what steps follow, one tensor per block: here the gradients alone.

        Args:
            gradients: Of the criterion where the point is.
            before: What the step before followed, None at the first one.
            space: The spaces of the blocks.
        """
        return gradients

    def normalise(self, gradient: Tensor) -> Tensor:
        """Return the direction of a step of length 1: the corner of the l-infinity ball."""
        return gradient.sign()

    def random_move(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """Return where a random start lies from a block's own, in units of ``step_space``: uniform in the cube.

        It is projected onto the ball. The draw is made on the CPU.
        """
        radius = float(self._radius)
        return torch.empty(start.shape, dtype=start.dtype).uniform_(-radius, radius, generator=generator)

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
            point = tuple(self._random(block, block_space, generators[e]) for block, block_space, e in blocks)
        followed: Sequence[Tensor] | None = None
        for number in range(self.steps):
            gradients = example_gradients(criterion, self._snapped(point, start, space), space.examples)
            followed = self.accumulate(gradients, followed, space)
            share = step_share(self.config.schedule, number, self.steps)
            blocks_to_step = zip(point, start, followed, space.blocks, strict=True)
            point = tuple(self._step(*block_to_step, share) for block_to_step in blocks_to_step)
        return self._snapped(point, start, space)

    def _step(self, block: Tensor, start: Tensor, followed: Tensor, space: BlockSpace, share: float) -> Tensor:
        step = space.length(self.config.step, self.config.step_space) * share
        step = -step if self.lowers else step
        return self._inside(block + step * self.normalise(followed), start, space)

    def _random(self, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
        move = self.random_move(start, generator).to(start.device)
        return self._inside(start + move * space.length(Fraction(1), self.config.step_space), start, space)

    def _inside(self, block: Tensor, start: Tensor, space: BlockSpace) -> Tensor:
        return project(block, start, self.radius(space), space, self.ball)

    def _snapped(self, point: Point, start: Point, space: Space) -> Point:
        return tuple(
            snap(block, origin, self.radius(block_space), block_space, self.ball)
            for block, origin, block_space in zip(point, start, space.blocks, strict=True)
        )


def example_gradients(criterion: Callable[[Point], Tensor], point: Point, examples: tuple[int, ...]) -> list[Tensor]:
    """Return dJ/dx per block; see ``value_and_gradients``."""
    return value_and_gradients(criterion, point, examples)[1]


def value_and_gradients(
    criterion: Callable[[Point], Tensor], point: Point, examples: tuple[int, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Return ``J_B`` and dJ/dx per block, zero for all blocks of an example of which any gradient is not finite.

    Only the blocks are differentiated: the ``.grad`` of parameters behind the criterion stays as it is.

    Args:
        criterion: Returns ``J_B`` at a point.
        point: What is differentiated.
        examples: For each block the example that it belongs to.

    Raises:
        ModelError: If the criterion has no gradient with respect to any block.
    """
    with torch.enable_grad():
        leaves = tuple(block.detach().requires_grad_() for block in point)
        J_B = criterion(leaves)
        partials: Sequence[Tensor | None] = [None] * len(leaves)
        if J_B.requires_grad:
            partials = torch.autograd.grad(J_B.sum(), leaves, allow_unused=True)
    if all(gradient is None for gradient in partials):
        raise ModelError(
            "A gradient attack needs a criterion that depends differentiably on what it moves.",
            reason="No gradient reached it: the vision tower, the processor or the embedding layer cuts it, or there "
            "is nothing to move.",
            remedy="Use a model that is differentiable and not quantised there, or an attack that takes no gradient: "
            "`noise` or `random-swap`.",
        )
    gradients = [
        torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(leaves, partials, strict=True)
    ]
    broken = {e for e, gradient in zip(examples, gradients, strict=True) if not bool(gradient.isfinite().all())}
    return J_B.detach(), [
        torch.zeros_like(gradient) if e in broken else gradient for e, gradient in zip(examples, gradients, strict=True)
    ]
