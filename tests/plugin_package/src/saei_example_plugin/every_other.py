"""A selector of every other token."""

from typing import Literal

import torch
from torch import Tensor

from saei.entropy.selectors.base import Selector, TokenStats


class EveryOther(Selector):
    """Selects every other candidate of each response, beginning with the first or the second."""

    class Config(Selector.Config):
        """Fields of ``example/every-other``.

        Attributes:
            first: Rank of the first selected candidate; a response of one token keeps that token.
        """

        type: Literal["example/every-other"] = "example/every-other"
        first: Literal[0, 1] = 0

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        candidates_NT = self.candidates(stats)
        rank_NT = candidates_NT.cumsum(dim=1) - 1
        alone_NT = candidates_NT & (candidates_NT.sum(dim=1, keepdim=True) == 1)
        return candidates_NT & (rank_NT % 2 == self.config.first) | alone_NT
