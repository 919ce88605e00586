"""Projected gradient descent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saei.attacks.gradient import GradientAttack


class PGD(GradientAttack):
    """Several signed steps inside a ball (arXiv 1706.06083); one step of 2/255 is SaEI's (arXiv 2512.10414).

    The paper's step of -2/255 is our 2/255: a positive step raises the criterion. Whether it counts in pixels or
    in normalised pixels is not known; ``step_space`` has both.
    """

    class Config(GradientAttack.Config):
        """Fields.

        Attributes:
            steps: Number of steps; 0 leaves the image as it is.
        """

        type: Literal["pgd"] = "pgd"
        steps: int = Field(default=1, ge=0, le=1000)

    config: Config

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.config.steps
