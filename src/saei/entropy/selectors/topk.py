"""The selector of the most uncertain tokens."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked, ceil_share, rank


class TopK(Ranked):
    """Keep the tokens of highest entropy: a number or a share of them.

    A share keeps ``ceil(L * share)`` of L candidates, the band ``[1 - share, 1)``; of equal entropies the later counts
    as the higher. Source: the forking tokens of arXiv 2506.01939, there the top
    20 % and on the side of the update.
    """

    class Config(Ranked.Config):
        """Fields; one of ``count`` and ``share`` at most, without either the top third.

        Attributes:
            count: Tokens kept per response, or of the group.
            share: Share kept of the candidates.
        """

        type: Literal["top-k"] = "top-k"
        count: int | None = Field(default=None, ge=1, le=2**20)
        share: Frac | None = Field(default=None, gt=0, le=1)

        @model_validator(mode="after")
        def _count_or_share(self) -> Self:
            if self.count is not None and self.share is not None:
                raise ValueError(
                    f"{self.type} takes a count or a share, not both, since they name different sets. Drop one."
                )
            return self

        def number_of(self, candidates: Tensor) -> Tensor:
            """Return how many of some numbers of candidates are kept; a count may be more than there are."""
            if self.count is not None:
                return torch.full_like(candidates, self.count)
            return ceil_share(candidates, self.share or Fraction(1, 3))

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the most uncertain tokens."""
        candidates_NT = self.candidates(stats)
        rank_NT, count = rank(stats.entropy_NT, candidates_NT, self.config.scope)
        return candidates_NT & (rank_NT >= count - self.config.number_of(count))
