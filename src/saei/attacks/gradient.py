"""The one loop of gradient attacks: start → gradient → direction → step → project."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import torch
from torch import Tensor

from saei.attacks.ball import project, snap, straight_through
from saei.attacks.base import Attack, BlockSpace, Criterion, Point, Space
from saei.errors import ModelError
from saei.registry import Frac, StrategyConfig


class GradientAttack(Attack):
    """Moves along the sign of the criterion's gradient inside an l-infinity ball.

    ``x ← clip proj (x + step · sign ∇J)``: a positive step raises J. Inside the loop the criterion sees values rounded
    to the grid, with straight-through gradients; the result is on the grid and inside the ball.
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

        step: Frac
        radius: Frac | None = None
        direction: Literal["raise", "lower"] = "raise"
        random_start: bool = False
        step_space: Literal["pixel", "normalised"] = "pixel"

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        if self.config.radius is not None and self.config.step > self.config.radius:
            warnings.warn(
                f"{self.name()}: a step of {self.config.step} leaves the ball of radius {self.config.radius} and is "
                "projected back onto it.",
                stacklevel=2,
            )

    @property
    def steps(self) -> int:
        """Number of steps."""
        return 1

    def radius(self, block: BlockSpace) -> Tensor | float:
        """Return the ball's radius in the block's coordinates."""
        radius = self.steps * self.config.step if self.config.radius is None else self.config.radius
        return self._length(float(radius), block)

    def attack(
        self, criterion: Criterion, start: Point, *, space: Space, progress: float, generator: torch.Generator
    ) -> Point:
        """Return the moved point."""
        start = tuple(block.detach() for block in start)
        if self.steps == 0:
            return tuple(block.clone() for block in start)
        radii = [self.radius(block_space) for block_space in space.blocks]
        point = self._initial(start, radii, space, generator)
        sign = 1.0 if self.config.direction == "raise" else -1.0
        for _ in range(self.steps):
            gradients = self._gradients(criterion, point, start, radii, space)
            point = tuple(
                project(
                    block + sign * self._length(float(self.config.step), own) * self._move(gradient, own),
                    origin,
                    r,
                    own,
                )
                for block, gradient, origin, r, own in zip(point, gradients, start, radii, space.blocks, strict=True)
            )
        return tuple(
            snap(block, origin, radius, own)
            for block, origin, radius, own in zip(point, start, radii, space.blocks, strict=True)
        )

    def _length(self, length: float, block: BlockSpace) -> Tensor | float:
        return length * block.units[self.config.step_space] * block.scale

    def _initial(self, start: Point, radii: list[Tensor | float], space: Space, generator: torch.Generator) -> Point:
        if not self.config.random_start:
            return start
        return tuple(
            project(block + r * _editable(2 * _uniform(block, generator) - 1, own), block, r, own)
            for block, r, own in zip(start, radii, space.blocks, strict=True)
        )

    def _gradients(
        self, criterion: Criterion, point: Point, start: Point, radii: list[Tensor | float], space: Space
    ) -> list[Tensor]:
        """Return dJ/dx per block; zero for all blocks of an example of which any gradient is not finite."""
        with torch.enable_grad():
            leaves = [block.detach().requires_grad_() for block in point]
            seen = tuple(
                straight_through(leaf, snap(leaf, origin, r, own))
                for leaf, origin, r, own in zip(leaves, start, radii, space.blocks, strict=True)
            )
            J_B = criterion(seen)
            if not J_B.requires_grad:
                raise _no_gradient()
            gradients = torch.autograd.grad(J_B.sum(), leaves, allow_unused=True)
        found = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]
        if all(gradient is None for gradient in gradients):
            raise _no_gradient()
        broken = {e for e, g in zip(space.examples, found, strict=True) if not bool(g.isfinite().all())}
        return [torch.zeros_like(g) if e in broken else g for e, g in zip(space.examples, found, strict=True)]

    def _move(self, gradient: Tensor, block: BlockSpace) -> Tensor:
        """Return the direction of a step: the corner of the l-infinity ball."""
        return _editable(gradient.sign(), block)


def _editable(move: Tensor, block: BlockSpace) -> Tensor:
    return move if block.editable is None else move * block.editable


def _uniform(block: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(block.shape, generator=generator, dtype=block.dtype).to(block.device)


def _no_gradient() -> ModelError:
    return ModelError(
        "A gradient attack needs a criterion that depends differentiably on the pixels.",
        reason="No gradient reached them: the vision tower or the processor cuts it, or the prompt has no image.",
        remedy="Use a model whose vision tower is differentiable and not quantised, or the attack `noise`.",
    )
