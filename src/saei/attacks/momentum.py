"""The iterated gradient sign method with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import Space
from saei.attacks.gradient import GradientAttack
from saei.config.strategy import Frac


class Momentum(GradientAttack):
    """Signed steps along a running sum of gradients: MI-FGSM (arXiv 1710.06081).

    ``g ← decay · g + ∇J / ‖∇J‖₁`` and ``x ← clip proj (x + step · sign g)``. The norm is taken as the mean of the
    absolute values, as torchattacks does: the steps are the same. It is an example's own, over all of its blocks of a
    space, without what is not editable. An example whose gradient vanishes goes on by its momentum.
    """

    class Config(GradientAttack.Config):
        """Fields.

        Attributes:
            step: Length of one step, in units of ``step_space``; the paper's 16/255 in ten steps.
            steps: Number of steps, the paper's 10; 0 leaves the image as it is.
            decay: Share of the running sum that a step keeps, the paper's 1; 0 is ``pgd``.
        """

        type: Literal["momentum"] = "momentum"
        step: Frac = Field(default=Fraction(16, 2550), ge=0)
        steps: int = Field(default=10, ge=0, le=1000)
        decay: Frac = Field(default=Fraction(1), ge=0, le=10)

    config: Config

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.config.steps

    def accumulate(
        self, gradients: Sequence[Tensor], before: Sequence[Tensor] | None, space: Space
    ) -> Sequence[Tensor]:
        """Return the running sums of normalised gradients."""
        editable = [
            gradient if block.editable is None else gradient * block.editable
            for gradient, block in zip(gradients, space.blocks, strict=True)
        ]
        owners = [(example, block.name) for example, block in zip(space.examples, space.blocks, strict=True)]
        mean_size = {
            owner: torch.cat([g.abs().flatten() for g, other in zip(editable, owners, strict=True) if other == owner])
            .mean()
            .clamp_min(torch.finfo(editable[0].dtype).tiny)
            for owner in set(owners)
        }
        normalised = [gradient / mean_size[owner] for gradient, owner in zip(editable, owners, strict=True)]
        if before is None:
            return normalised
        decay = float(self.config.decay)
        return [new + old * decay for new, old in zip(normalised, before, strict=True)]
