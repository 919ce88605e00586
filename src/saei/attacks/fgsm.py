"""The fast gradient sign method."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from saei.attacks.gradient import GradientAttack
from saei.registry import Frac


class FGSM(GradientAttack):
    """One signed step (arXiv 1412.6572); with a random start and a step beyond the radius, arXiv 2001.03994."""

    class Config(GradientAttack.Config):
        """No fields of its own."""

        type: Literal["fgsm"] = "fgsm"
        step: Frac = Fraction(2, 255)

    config: Config
