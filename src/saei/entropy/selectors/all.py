"""The selector that does not select."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saei.entropy.selectors.base import Selector, TokenStats


class All(Selector):
    """Keep every token that is not excluded: the ablation without token selection."""

    class Config(Selector.Config):
        """No fields of its own."""

        type: Literal["all"] = "all"

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of all candidates."""
        return self.candidates(stats)
