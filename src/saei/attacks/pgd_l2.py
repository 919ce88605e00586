"""Projected gradient descent in an l2 ball."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.attacks.base import Space
from saei.attacks.gradient import GradientAttack
from saei.config.strategy import Frac

LONGEST = 10_000
"""Longest sensible step and radius: the root of the number of values, for a picture of 10⁸."""


class PGDL2(GradientAttack):
    """Steps along the gradient itself inside an l2 ball, several at need (arXiv 1706.06083).

    Step and radius are Euclidean lengths over all values of a picture, in units of ``step_space``, so they mean less
    in a larger picture: a change of 2/255 in each of n values has the length 2/255 · √n. Each picture of an example
    has a ball of its own. On the 8-bit grid, values are rounded as far as the ball holds it; a radius below half a
    level per value moves few values or none, which the metric ``moved`` shows.
    """

    ball = "l2"

    class Config(GradientAttack.Config):
        """Fields.

        Attributes:
            step: Length of one step, torchattacks' 1/5.
            random_start: Begin in a random direction, at a distance drawn uniformly up to the radius.
            steps: Number of steps, torchattacks' 10; 0 leaves the image as it is.
        """

        type: Literal["pgd-l2"] = "pgd-l2"
        step: Frac = Field(default=Fraction(1, 5), ge=0, le=LONGEST)
        radius: Frac | None = Field(default=Fraction(1), ge=0, le=LONGEST)
        random_start: bool = False
        steps: int = Field(default=10, ge=0, le=1000)

        @model_validator(mode="after")
        def _within_the_range(self) -> Self:
            return self  # the bounds are those of the fields: a length over all values exceeds that of one

    config: Config

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.config.steps

    def accumulate(
        self, gradients: Sequence[Tensor], before: Sequence[Tensor] | None, space: Space
    ) -> Sequence[Tensor]:
        """Return the gradients by the editable values in units of ``step_space``."""
        return [
            gradient * block.units[self.config.step_space] * (1 if block.editable is None else block.editable)
            for gradient, block in zip(gradients, space.blocks, strict=True)
        ]

    def normalise(self, gradient: Tensor) -> Tensor:
        """Return the gradient at length 1, or 0 where it vanishes."""
        # By its largest value first: squares of small gradients would vanish.
        scaled = gradient / gradient.abs().max().clamp_min(torch.finfo(gradient.dtype).tiny)
        direction: Tensor = scaled / torch.linalg.vector_norm(scaled).clamp_min(1)
        return direction

    def random_move(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """Return a move in a random direction, of a length drawn uniformly up to the radius."""
        direction = torch.empty(start.shape, dtype=start.dtype).normal_(generator=generator)
        share = torch.empty(1, dtype=start.dtype).uniform_(0, 1, generator=generator)
        move: Tensor = direction * (share / torch.linalg.vector_norm(direction) * float(self._radius))
        return move
