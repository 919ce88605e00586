"""Selectors that keep a band of the entropy ranking."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.entropy.base import Selector, TokenStats
from saei.entropy.ranks import Scope, ceil_share, floor_share, rank
from saei.strategy import Frac


class Band(Selector):
    """Keep the tokens whose rank by entropy lies in ``[floor(L * lo), ceil(L * hi))`` of L candidates.

    At least one token of every response with candidates is kept, since ``lo < hi``. Source: original, the
    generalisation of the middle third.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            lo: Share of the lowest entropies that is dropped.
            hi: Share up to which tokens are kept.
            scope: Rank within each response or over the group; in scope ``group`` a response may keep no token.
        """

        type: Literal["band"] = "band"
        lo: Frac = Field(default=Fraction(1, 3), ge=0, le=1)
        hi: Frac = Field(default=Fraction(2, 3), ge=0, le=1)
        scope: Scope = "response"

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.lo >= self.hi:
                raise ValueError(f"A band needs lo < hi, else it keeps nothing; got lo={self.lo}, hi={self.hi}.")
            return self

    config: Config

    @property
    def pooled(self) -> bool:
        """Whether the ranking goes over the group."""
        return self.config.scope == "group"

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the band."""
        return keep_band(self.candidates(stats), stats.entropy_NT, self.config.lo, self.config.hi, self.config.scope)


class MiddleThird(Selector):
    """Keep the moderately uncertain tokens: drop ``floor(L / 3)`` of a response's L tokens at each end.

    That is all of 2, three of 5, two of 6. Low-entropy tokens are decided by the language, high-entropy ones carry
    the reasoning's structure; what is between them is where the image is in doubt.
    Source: token-selective entropy computation of SaEI (arXiv 2512.10414); whether it ranks per response or per group
    is not known.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            scope: Rank within each response or over the group; in scope ``group`` a response may keep no token.
        """

        type: Literal["middle-third"] = "middle-third"
        scope: Scope = "response"

    config: Config

    @property
    def pooled(self) -> bool:
        """Whether the ranking goes over the group."""
        return self.config.scope == "group"

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the middle third."""
        third = Fraction(1, 3)
        return keep_band(self.candidates(stats), stats.entropy_NT, third, 2 * third, self.config.scope)


def keep_band(candidates_NT: Tensor, entropy_NT: Tensor, lo: Fraction, hi: Fraction, scope: Scope) -> Tensor:
    """Return the mask of the candidates with a rank in ``[floor(L * lo), ceil(L * hi))``."""
    rank_NT, count = rank(entropy_NT, candidates_NT, scope)
    return candidates_NT & (rank_NT >= floor_share(count, lo)) & (rank_NT < ceil_share(count, hi))
