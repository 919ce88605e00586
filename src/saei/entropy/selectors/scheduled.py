"""The band that moves with training."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked, check_band, keep_band

STEPS = 10**6
"""The progress of a training is a step's number over the number of steps, of which there are fewer than this."""


class Scheduled(Ranked):
    """Keep a ``band`` whose bounds go evenly from one band to another over the training.

    At a share p of the training, ``lo = start_lo + p (end_lo - start_lo)``, and so for ``hi``; both are exact
    fractions, and ranks are kept as ``band`` keeps them. The default goes from the middle third to the top third: as
    the policy learns, the middle of its ranking becomes certain, and what is moderately uncertain moves up.

    Source: original, the default too.
    """

    class Config(Ranked.Config):
        """Fields.

        Attributes:
            start_lo: Share of the lowest entropies that is dropped at the first step.
            start_hi: Share up to which tokens are kept at the first step.
            end_lo: Share of the lowest entropies that is dropped when training ends.
            end_hi: Share up to which tokens are kept when training ends.
        """

        type: Literal["scheduled"] = "scheduled"
        start_lo: Frac = Field(default=Fraction(1, 3), ge=0, le=1)
        start_hi: Frac = Field(default=Fraction(2, 3), ge=0, le=1)
        end_lo: Frac = Field(default=Fraction(2, 3), ge=0, le=1)
        end_hi: Frac = Field(default=Fraction(1), ge=0, le=1)

        @model_validator(mode="after")
        def _moves(self) -> Self:
            check_band(self.start_lo, self.start_hi)
            check_band(self.end_lo, self.end_hi)
            if (self.start_lo, self.start_hi) == (self.end_lo, self.end_hi):
                raise ValueError(
                    "A scheduled band has to move; start and end are the same. Use {type: band, lo: …, hi: …}."
                )
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the band at this share of the training."""
        config, share = self.config, Fraction(progress).limit_denominator(STEPS)
        lo = config.start_lo + share * (config.end_lo - config.start_lo)
        hi = config.start_hi + share * (config.end_hi - config.start_hi)
        return keep_band(self.candidates(stats), stats.entropy_NT, lo, hi, self.config.scope)
