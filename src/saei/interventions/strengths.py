"""Strengths: how strong the attack is over training."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.strategy import Frac, StrategyConfig
from saei.interventions.base import Strength


class Constant(Strength):
    """The same strength throughout."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            value: Factor on the attack's steps and radii.
        """

        type: Literal["constant"] = "constant"
        value: float = Field(default=1.0, ge=0.0, le=100.0)

    config: Config

    def at(self, progress: float) -> float:
        """Return the constant."""
        return self.config.value


class Ramp(Strength):
    """Goes from one strength to another over the training."""

    class Config(StrategyConfig):
        """Fields of every ramp.

        Attributes:
            start: Factor at the beginning of the training.
            end: Factor at its end.
        """

        start: float = Field(default=1.0, ge=0.0, le=100.0)
        end: float = Field(default=0.0, ge=0.0, le=100.0)

        @model_validator(mode="after")
        def _moves(self) -> Self:
            if self.start == self.end:
                raise ValueError(
                    f"A ramp goes from one strength to another; start and end are {self.start:g}. Use "
                    f"{{type: constant, value: {self.start:g}}}."
                )
            return self

    config: Config


class Linear(Ramp):
    """At even pace from one strength to another: ``start + (end - start) * progress``."""

    class Config(Ramp.Config):
        """No fields of its own."""

        type: Literal["linear"] = "linear"

    config: Config

    def at(self, progress: float) -> float:
        """Return the point of the line."""
        return (1 - progress) * self.config.start + progress * self.config.end


class Cosine(Ramp):
    """Along half a cosine from one strength to another, as learning rates fall (arXiv 1608.03983)."""

    class Config(Ramp.Config):
        """No fields of its own."""

        type: Literal["cosine"] = "cosine"

    config: Config

    def at(self, progress: float) -> float:
        """Return the point of the curve."""
        done = (1 - math.cos(math.pi * progress)) / 2
        return (1 - done) * self.config.start + done * self.config.end


class Sigmoid(Strength):
    """Full at first, then a smooth fall to nothing: ``1 - sigmoid(coef * (progress - mid))``, as in NoisyRollout.

    NoisyRollout (arXiv 2504.13055) gives the middle as a step and divides it by the number of steps, here it is that
    share. Geometry3K: ``coef`` 30 and step 40 of 60, the defaults, with ``t0`` 500 of ``diffusion-noise``. K12:
    ``coef`` 60 and step 40, of a number of steps that its scripts leave to the size of the data, with ``t0`` 450.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            coef: How steeply it falls: four times the slope in the middle, per training.
            mid: Share of the training at which half of the strength is left.
        """

        type: Literal["sigmoid"] = "sigmoid"
        coef: float = Field(default=30.0, gt=0.0, le=1e6)
        mid: Frac = Field(default=Fraction(2, 3), ge=0, le=1)

    config: Config

    def at(self, progress: float) -> float:
        """Return the point of the curve."""
        # 1 - sigmoid(x) without an exponential that may overflow.
        return (1 - math.tanh(self.config.coef * (progress - float(self.config.mid)) / 2)) / 2
