"""Forking tokens: train on the most uncertain fifth of the tokens."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.ranking import keep_band
from saei.objectives.batch import UpdateBatch
from saei.objectives.weights.base import Weight


class ForkingTokens(Weight):
    """1 on the tokens of highest entropy, ``ceil(share * tokens)`` of the update batch or of each response, else 0.

    The entropies are those of the sampling pass, at ``entropy.temperature``, which cost nothing, where the authors'
    code takes the current policy's at each update. Forced tokens are never kept. Of equal entropies the later counts as
    the higher. With several updates per batch the tokens of each are ranked apart.

    Source: https://arxiv.org/abs/2506.01939; the scope ``response`` is that of SIREN and VPPO
    (https://arxiv.org/abs/2510.09285).
    """

    class Config(Weight.Config):
        """The defaults are the paper's.

        Attributes:
            share: Share of the tokens that is trained on.
            scope: Rank the tokens of the whole update batch, in all processes, or those of each response apart.
            count_zeroed: Whether the tokens that are not kept count in the mean. The authors' code takes the mean over
                the kept ones.
        """

        type: Literal["forking-tokens"] = "forking-tokens"
        share: Frac = Field(default=Fraction(1, 5), gt=0, le=1)
        scope: Literal["batch", "response"] = "batch"
        count_zeroed: bool = False

    config: Config

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return 1 on the tokens that are kept."""
        candidates_RT = batch.mask_RT & batch.drawn_RT
        scope: Literal["group", "response"] = "group" if self.config.scope == "batch" else "response"
        lowest = 1 - self.config.share
        return keep_band(candidates_RT, batch.behaviour_entropy_RT, lowest, Fraction(1), scope).float()
