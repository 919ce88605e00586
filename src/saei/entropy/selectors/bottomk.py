"""The selector of the most settled tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked, rank
from saei.entropy.selectors.topk import TopK


class BottomK(Ranked):
    """Keep the tokens of lowest entropy: a number or a share of them.

    A share keeps ``ceil(L * share)`` of L candidates, the band ``[0, share)``; of equal entropies the earlier counts as
    the lower. Source: original, the counterpart of ``top-k``.
    """

    class Config(TopK.Config):
        """The fields of ``top-k``; without a count and a share the bottom third."""

        type: Literal["bottom-k"] = "bottom-k"  # type: ignore[assignment]  # a name of its own

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the most settled tokens."""
        candidates_NT = self.candidates(stats)
        rank_NT, count = rank(stats.entropy_NT, candidates_NT, self.config.scope)
        return candidates_NT & (rank_NT < self.config.number_of(count))
