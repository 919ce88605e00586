"""The selector of the tokens that carry a share of the entropy."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.band import Band
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked


class Mass(Ranked):
    """Keep the tokens that carry the middle share of the total entropy, where ``band`` keeps a share of the tokens.

    Lay the candidates side by side in ascending order of entropy, each as wide as its entropy, ties by position. Of the
    whole width S the part between ``S * lo`` and ``S * hi`` counts: a token is kept if some of its width lies inside.
    As few tokens carry most of the entropy, these are far fewer tokens than a third, and higher ones. Equal entropies
    give the band of the same shares. Tokens without entropy carry nothing and are never kept, also where a response has
    no others.

    Source: original.
    """

    class Config(Band.Config):
        """Fields.

        Attributes:
            lo: Share of the total entropy below the kept tokens.
            hi: Share of the total entropy up to which tokens are kept.
        """

        type: Literal["mass"] = "mass"  # type: ignore[assignment]  # a name of its own
        lo: Frac = Field(default=Fraction(1, 3), ge=0, le=1)
        hi: Frac = Field(default=Fraction(2, 3), ge=0, le=1)

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the carriers."""
        candidates_NT = self.candidates(stats)
        # Sums of float32 numbers in float64 are exact for all practical lengths, so that ties are decided as said.
        width_NT = torch.where(candidates_NT, stats.entropy_NT.double().clamp_min(0), 0.0)
        if self.pooled:
            width_NT = width_NT.reshape(1, -1)
        ascending, order = width_NT.sort(dim=-1, stable=True)  # what is no candidate has no width, and stands first
        right = ascending.cumsum(-1)
        left, total = right - ascending, right[:, -1:]
        lo, hi = self.config.lo, self.config.hi
        # A token without width ends at 0, and so never lies inside.
        inside = (right * lo.denominator > total * lo.numerator) & (left * hi.denominator < total * hi.numerator)
        mask = torch.zeros_like(inside).scatter_(-1, order, inside)
        return mask.reshape(candidates_NT.shape)
