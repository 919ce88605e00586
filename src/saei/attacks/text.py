"""Attacks on the embeddings of a question's tokens: gradient attacks and noise, in units that mean something there."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.attacks.base import BlockSpace, StepSpace
from saei.attacks.gradient import GradientAttack
from saei.attacks.noise import Noise
from saei.config.strategy import Frac


class TextGradientAttack(GradientAttack):
    """A gradient attack on the embeddings of the question's tokens. To add one, implement ``steps``."""

    spaces = frozenset({"embeddings"})
    moves = ("embeddings",)

    class Config(GradientAttack.Config):
        """Fields of every gradient attack on embeddings.

        Attributes:
            step: Length of one step at each feature. A tenth of the embeddings' root mean square is ours.
            step_space: Unit of step and radius: ``rms``, the embeddings' root mean square; ``distance``, the median
                distance between two tokens' embeddings, shared out evenly over the features; ``neftune``, 1 / √(Q d)
                for Q tokens of d features.
            start: Magnitude m of FreeLB's random start (arXiv 1909.11764), U(-1, 1) · m / √(Q d) at each feature; its
                own is .16. None for a start drawn from the ball.
        """

        step: Frac = Field(default=Fraction(1, 10), ge=0)
        step_space: StepSpace = "rms"
        start: Frac | None = Field(default=None, ge=0, le=1000)

        @model_validator(mode="after")
        def _starts_at_random(self) -> Self:
            if self.start is not None and not self.random_start:
                raise ValueError("`start` is the size of a random start. Set random_start: true, or leave it out")
            return self

    config: Config

    def _random(self, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
        if self.config.start is None:
            return super()._random(start, space, generator)
        uniform = 2 * torch.rand(start.shape, generator=generator, dtype=start.dtype).to(start.device) - 1
        return self._inside(start + uniform * space.length(self.config.start, "neftune"), start, space)


class TextPGD(TextGradientAttack):
    """Several signed steps on the question's embeddings, as PGD on pixels.

    Close to FreeLB (arXiv 1909.11764) and VILLA (arXiv 2006.06195), whose steps follow the normalised gradient itself:
    ``pgd-l2`` on the surface ``embeddings`` has these.
    """

    class Config(TextGradientAttack.Config):
        """Fields.

        Attributes:
            steps: Number of steps; 0 leaves the text as it is.
        """

        type: Literal["text-pgd"] = "text-pgd"
        steps: int = Field(default=1, ge=0, le=1000)

    config: Config

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.config.steps


class TextFGSM(TextGradientAttack):
    """One signed step on the question's embeddings (arXiv 1412.6572 on pixels, arXiv 1605.07725 on embeddings)."""

    class Config(TextGradientAttack.Config):
        """Fields."""

        type: Literal["text-fgsm"] = "text-fgsm"
        schedule: Literal["constant"] = "constant"

    config: Config

    @property
    def steps(self) -> int:
        """One."""
        return 1


class NEFTune(Noise):
    """Uniform noise on the question's embeddings, U(-1, 1) · α / √(Q d) (arXiv 2310.05914): a control without gradient.

    NEFTune draws it over the whole sequence of an instruction, here it is on the question alone. Its α is 5, 10 or 15.
    """

    spaces = frozenset({"embeddings"})
    moves = ("embeddings",)

    class Config(Noise.Config):
        """Fields.

        Attributes:
            radius: α.
            step_space: Unit of the radius, NEFTune's by default.
        """

        type: Literal["neftune"] = "neftune"  # type: ignore[assignment]  # another name is the point
        distribution: Literal["signs", "uniform", "gaussian"] = "uniform"
        radius: Frac = Field(default=Fraction(5), ge=0)
        step_space: StepSpace = "neftune"

    config: Config
