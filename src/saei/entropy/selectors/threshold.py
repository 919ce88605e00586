"""The selector by absolute entropy."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.entropy.selectors.base import Selector, TokenStats


class Threshold(Selector):
    """Keep the tokens with an entropy of ``lo`` nats or more and less than ``hi`` nats.

    How many they are follows the policy: fewer as it becomes certain, and a response may keep none. Source: original,
    the bounds too; by rank they would be those of ``band``.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            lo: Lowest entropy that is kept, in nats.
            hi: Entropy from which on tokens are dropped, in nats; None for no bound.
        """

        type: Literal["threshold"] = "threshold"
        lo: float = Field(default=0.1, ge=0)
        hi: float | None = Field(default=1.0, gt=0)

        @model_validator(mode="after")
        def _keeps_some(self) -> Self:
            if self.hi is not None and self.lo >= self.hi:
                raise ValueError(f"A threshold needs lo < hi, else it keeps nothing; got lo={self.lo}, hi={self.hi}.")
            if self.hi is None and self.lo == 0:
                raise ValueError("A threshold of 0 without hi keeps every token. Use `all`, or set lo or hi.")
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the entropies within the bounds."""
        entropy_NT = stats.entropy_NT.float()
        mask_NT = self.candidates(stats) & (entropy_NT >= self.config.lo)
        return mask_NT if self.config.hi is None else mask_NT & (entropy_NT < self.config.hi)
