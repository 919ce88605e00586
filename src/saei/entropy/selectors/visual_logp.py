"""The selector of the tokens whose own probability depends on the picture."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from saei.entropy.selectors.base import TokenStats
from saei.entropy.selectors.ranking import TopShare
from saei.need import Need
from saei.views import PatchFields


class VisualLogp(TopShare):
    """Keep the tokens whose log-probability changes most where random patches of the picture turn black.

    Tokens are ranked by Schulman's k3 estimate ``exp(d) - d - 1``, in nats, with d the log-probability of the token
    under the view with black patches less the one under the response's own view. It sees the token that was drawn
    alone, where ``visual`` sees the whole distribution, and costs a pass less. A view without a picture has nothing to
    measure: an intervention leaves it alone, and in the update its responses are left out.

    Source: the token selection of VPPO (https://arxiv.org/abs/2510.09285): its estimate, its patches and its share of
    each response. There patches are drawn anew in each step, here once for each view.
    """

    class Config(PatchFields, TopShare.Config):
        """The shared fields alone."""

        type: Literal["visual-logp"] = "visual-logp"

    config: Config

    @property
    def divergence(self) -> Need:
        """The estimate of the divergence from the view with black patches."""
        return Need("kl-k3", view=self.config.patches)

    @property
    def needs(self) -> frozenset[Need]:
        """What is excluded, and the estimate."""
        return super().needs | {self.divergence}

    def scores(self, stats: TokenStats) -> Tensor:
        """Return the estimates."""
        return stats.statistics[self.divergence]
