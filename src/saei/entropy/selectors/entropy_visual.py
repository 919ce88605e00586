"""The selector of the tokens that are open and depend on the picture."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.visual import Sensitive


class EntropyVisual(Sensitive):
    """Keep the tokens at which entropy times dependence on the picture is highest.

    The dependence is the divergence of ``visual``; where rounding brings it below 0 it counts as 0.

    Source: the product is VEPO's (https://arxiv.org/abs/2606.03937), which measures the dependence in another way; the
    divergence from a blank view and the share are ours.
    """

    class Config(Sensitive.Config):
        """No fields of its own."""

        type: Literal["entropy-visual"] = "entropy-visual"

    config: Config

    def scores(self, stats: TokenStats) -> Tensor:
        """Return the products, in nats²."""
        return stats.entropy_NT.float() * stats.statistics[self.divergence].clamp_min(0)
