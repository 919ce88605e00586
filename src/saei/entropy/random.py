"""The selector that chooses by chance."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.entropy.base import Selector, TokenStats
from saei.entropy.ranks import ceil_share, rank
from saei.strategy import Frac


class Random(Selector):
    """Keep ``ceil(L * share)`` uniformly chosen tokens of each response: by default as many as a third.

    The control that tells whether it matters which tokens are selected. Source: original.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            share: Share kept of a response's candidates.
        """

        type: Literal["random"] = "random"
        share: Frac = Field(default=Fraction(1, 3), gt=0, le=1)

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the chosen tokens."""
        candidates_NT = self.candidates(stats)
        # One number per candidate, in order, so that padding changes nothing.
        drawn = torch.rand(int(candidates_NT.sum()), generator=generator, dtype=torch.float64)
        key_NT = torch.zeros(candidates_NT.shape, dtype=torch.float64, device=candidates_NT.device)
        key_NT[candidates_NT] = drawn.to(candidates_NT.device)
        rank_NT, count_N1 = rank(key_NT, candidates_NT, "response")
        return candidates_NT & (rank_NT < ceil_share(count_N1, self.config.share))
