"""The selector by place in the response."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.base import Selector, TokenStats
from saei.entropy.selectors.ranking import check_band, keep_band


class Position(Selector):
    """Keep a window of each response: of L candidates in their order those numbered ``[floor(L * lo), ceil(L * hi))``.

    By default these are as many tokens as the middle third by entropy, but all in one place: the control that tells
    whether entropy chooses, or where in a response its middle happens to lie. At least one token is kept. Source:
    original.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            lo: Share of a response in front of the window.
            hi: Share of a response up to the window's end.
        """

        type: Literal["position"] = "position"
        lo: Frac = Field(default=Fraction(1, 3), ge=0, le=1)
        hi: Frac = Field(default=Fraction(2, 3), ge=0, le=1)

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            check_band(self.lo, self.hi)
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the window."""
        candidates_NT = self.candidates(stats)
        place_NT = candidates_NT.cumsum(1).double()
        return keep_band(candidates_NT, place_NT, self.config.lo, self.config.hi, "response")
