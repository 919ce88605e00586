"""An advantage raised where the policy was undecided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from saei.objectives.advantages.shaping import ShapingAdvantage, at_tokens
from saei.types import ScoredGroup


class EntropyShaped(ShapingAdvantage):
    """Another advantage A plus ``min(alpha * H, |A| / kappa)`` at each token, H the token's entropy in nats.

    A token of a right answer is reinforced more and one of a wrong answer punished less the less sure the policy was,
    and with ``kappa`` above 1 no advantage changes its sign. Entropies are those of the sampling pass, at the
    criterion's temperature (``entropy.temperature``), and have no gradient.

    Source: https://arxiv.org/abs/2506.14758, with its ``alpha`` and ``kappa``; DUPL (https://arxiv.org/abs/2510.01444)
    has the same numbers.
    """

    class Config(ShapingAdvantage.Config):
        """Fields.

        Attributes:
            of: The advantage that is raised.
            alpha: Of a nat of entropy.
            kappa: The largest share of an advantage that is added to it is 1 over this.
        """

        type: Literal["entropy-shaped"] = "entropy-shaped"
        alpha: float = Field(default=0.4, ge=0.0, le=1e6)
        kappa: float = Field(default=2.0, gt=0.0, le=1e6)

    config: Config

    @property
    def per_token(self) -> bool:
        """True."""
        return True

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> list[Tensor]:
        """Return the raised advantages of each response's tokens."""
        inner: Sequence[float | Tensor] = self.of.estimate(scored, rewards)
        raised = []
        for value, response in zip(inner, scored.group.responses, strict=True):
            value_T = at_tokens(value, response)
            bonus_T = self.config.alpha * response.entropy_T.float()
            raised.append(value_T + bonus_T.minimum(value_T.abs() / self.config.kappa))
        return raised
