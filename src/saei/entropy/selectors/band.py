"""Selectors that keep a band of the entropy ranking."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked, check_band, keep_band


class Band(Ranked):
    """Keep the tokens whose rank by entropy lies in ``[floor(L * lo), ceil(L * hi))`` of L candidates.

    At least one token of every response with candidates is kept, since ``lo < hi``. Source: original, the
    generalisation of the middle third.
    """

    class Config(Ranked.Config):
        """Fields.

        Attributes:
            lo: Share of the lowest entropies that is dropped.
            hi: Share up to which tokens are kept.
        """

        type: Literal["band"] = "band"
        lo: Frac = Field(default=Fraction(1, 3), ge=0, le=1)
        hi: Frac = Field(default=Fraction(2, 3), ge=0, le=1)

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            check_band(self.lo, self.hi)
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the band."""
        return keep_band(self.candidates(stats), stats.entropy_NT, self.config.lo, self.config.hi, self.config.scope)


class MiddleThird(Ranked):
    """Keep the moderately uncertain tokens: drop ``floor(L / 3)`` of a response's L tokens at each end.

    That is all of 2, three of 5, two of 6.
    Source: token-selective entropy computation of SaEI (arXiv 2512.10414); whether it ranks per response or per group
    is not known.
    """

    class Config(Ranked.Config):
        """No fields of its own."""

        type: Literal["middle-third"] = "middle-third"

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the middle third."""
        third = Fraction(1, 3)
        return keep_band(self.candidates(stats), stats.entropy_NT, third, 2 * third, self.config.scope)
