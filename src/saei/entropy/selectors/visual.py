"""Selectors of the tokens that depend on the picture, and the one by this dependence alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import TopShare
from saei.need import Need
from saei.views import Blank


class Sensitive(TopShare):
    """Ranks tokens by something made of the divergence from a view whose pictures are an even grey.

    The divergence is ``KL(p‖q)`` over the whole vocabulary, in nats: p of the policy under the response's own view (in
    the update the one that it is trained under), q under that view with each picture blank. A view without a picture
    has nothing to measure: an intervention leaves it alone, and in the update its responses are left out.
    """

    class Config(TopShare.Config):
        """Fields of every selector that compares with a blank view.

        Attributes:
            grey: Level of the blank pictures, of 0 (black) to 255 (white).
        """

        grey: int = Field(default=128, ge=0, le=255)

    config: Config

    @property
    def divergence(self) -> Need:
        """The divergence."""
        return Need("kl", view=Blank.Config(grey=self.config.grey))

    @property
    def needs(self) -> frozenset[Need]:
        """What is excluded, and the divergence."""
        return super().needs | {self.divergence}


class Visual(Sensitive):
    """Keep the tokens whose distribution changes most where an even grey takes the picture's place.

    Source: original; that two fifths of each response are kept is VPPO's choice (https://arxiv.org/abs/2510.09285).
    """

    class Config(Sensitive.Config):
        """No fields of its own."""

        type: Literal["visual"] = "visual"

    config: Config

    def scores(self, stats: TokenStats) -> Tensor:
        """Return the divergences."""
        return stats.statistics[self.divergence]
