"""The band that moves with training."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac, Section
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked, check_band, keep_band

STEPS = 10**6
"""The progress of a training is a step's number over the number of steps, of which there are fewer than this."""


class Bounds(Section):
    """Two shares of a ranking.

    Attributes:
        lo: Share of the lowest entropies that is dropped.
        hi: Share up to which tokens are kept.
    """

    lo: Frac = Field(ge=0, le=1)
    hi: Frac = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_band(self.lo, self.hi)
        return self


class Scheduled(Ranked):
    """Keep a ``band`` whose bounds go evenly from one band to another over the training.

    At a share p of the training, ``lo = start.lo + p (end.lo - start.lo)``, and so for ``hi``; both are exact
    fractions, and ranks are kept as ``band`` keeps them. The default goes from the middle third to the top third: as
    the policy learns, the middle of its ranking becomes certain, and what is moderately uncertain moves up.

    Source: original, the default too.
    """

    class Config(Ranked.Config):
        """Fields.

        Attributes:
            start: The band at the first step.
            end: The band that is reached when training ends.
        """

        type: Literal["scheduled"] = "scheduled"
        start: Bounds = Bounds(lo=Fraction(1, 3), hi=Fraction(2, 3))
        end: Bounds = Bounds(lo=Fraction(2, 3), hi=Fraction(1))

        @model_validator(mode="after")
        def _moves(self) -> Self:
            if self.start == self.end:
                raise ValueError(
                    "A scheduled band has to move; start and end are the same. Use {type: band, lo: …, hi: …}."
                )
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the band at this share of the training."""
        start, end = self.config.start, self.config.end
        share = Fraction(progress).limit_denominator(STEPS)
        lo, hi = start.lo + share * (end.lo - start.lo), start.hi + share * (end.hi - start.hi)
        return keep_band(self.candidates(stats), stats.entropy_NT, lo, hi, self.config.scope)
