"""Attacks on the embeddings of a question's tokens: gradient attacks and noise in the units of text."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import StepSpace
from saei.attacks.fgsm import FGSM
from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.config.strategy import Frac


class TextPGD(PGD):
    """PGD on the embeddings of the question's tokens.

    As FreeLB (arXiv 1909.11764) and VILLA (arXiv 2006.06195) have it, but for signed steps; its step, a tenth of the
    embeddings' root mean square, is ours. ``pgd-l2`` in the same units has their ball.
    """

    spaces = frozenset({"embeddings"})
    moves = ("embeddings",)

    class Config(PGD.Config):
        """Fields.

        Attributes:
            start: Begin at FreeLB's random start of this magnitude m, U(-1, 1) · m / √(Q d) for each value of Q tokens
                of d features, in place of a point of the ball; FreeLB's is .16. None for no such start.
        """

        type: Literal["text-pgd"] = "text-pgd"  # type: ignore[assignment]  # a preset of its own name
        step: Frac = Field(default=Fraction(1, 10), ge=0)
        step_space: StepSpace = "rms"
        start: Frac | None = Field(default=None, ge=0, le=1000)

    config: Config
