"""Strengths: how strong the attack is over training."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from saei.interventions.base import Strength
from saei.strategy import StrategyConfig


class Constant(Strength):
    """The same strength throughout."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            value: Factor on the attack's steps and radii.
        """

        type: Literal["constant"] = "constant"
        value: NonNegativeFloat = 1.0

    config: Config

    def at(self, progress: float) -> float:
        """Return the constant."""
        return self.config.value
