"""The fast gradient sign method."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from saei.attacks.gradient import GradientAttack


class FGSM(GradientAttack):
    """One signed step (arXiv 1412.6572); with a random start and a step beyond the radius, arXiv 2001.03994."""

    class Config(GradientAttack.Config):
        """No fields of its own."""

        type: Literal["fgsm"] = "fgsm"

        @model_validator(mode="after")
        def _has_one_step(self) -> Self:
            if self.schedule != "constant":
                raise ValueError(
                    "A schedule shortens the steps after the first one, and fgsm has one. Take the attack pgd."
                )
            return self

    config: Config

    @property
    def steps(self) -> int:
        """One."""
        return 1
