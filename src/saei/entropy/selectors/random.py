"""The selector that chooses by chance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saei.entropy.selectors.band import Band
from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import Ranked, keep_band


class Random(Ranked):
    """Keep uniformly chosen tokens, exactly as many as ``band`` keeps: by default as many as the middle third.

    The control that tells whether it matters which tokens are selected. It is the band of a ranking by random numbers.
    Source: original.
    """

    class Config(Band.Config):
        """The fields of ``band``, whose numbers of tokens are kept."""

        type: Literal["random"] = "random"  # type: ignore[assignment]  # a name of its own

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the chosen tokens."""
        candidates_NT = self.candidates(stats)
        # One number per candidate, in order, so that padding changes nothing.
        numbers = torch.rand(int(candidates_NT.sum()), generator=generator, dtype=torch.float64)
        key_NT = torch.zeros(candidates_NT.shape, dtype=torch.float64, device=candidates_NT.device)
        key_NT[candidates_NT] = numbers.to(candidates_NT.device)
        return keep_band(candidates_NT, key_NT, self.config.lo, self.config.hi, self.config.scope)
