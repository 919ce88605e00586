"""The advantage of VOGUE: raised where the picture's noise matters to the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from saei.config.registry import AdvantageField
from saei.need import Need
from saei.objectives.advantages.base import Advantages
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.advantages.shaping import ShapingAdvantage, at_tokens
from saei.types import ScoredGroup

DIVERGENCE = Need("kl-symmetric", view="clean")
"""Between the view that a response was drawn from and the clean one."""


class Vogue(ShapingAdvantage):
    """Another advantage A plus ``min(alpha * u, |A| / kappa)``, for the responses drawn from a moved view.

    u is the mean over the response's tokens of the symmetric KL divergence, over the whole vocabulary and in nats,
    between the policy under that view and under the clean one. Responses from the clean view keep A. It costs two
    passes without gradient over the others.

    Source: VOGUE (https://arxiv.org/abs/2510.01444, called DUPL from version 3 on), with its numbers and its baseline,
    that of each branch by itself. Its other bonus, on the entropy, is ``entropy-shaped``; its choice between the
    branches, which turns to the clean one over the training, is a matter of the sampler, and its noise is ours.
    """

    class Config(ShapingAdvantage.Config):
        """Fields.

        Attributes:
            of: The advantage that is raised.
            alpha: Of a nat of divergence.
            kappa: The largest share of an advantage that is added to it is 1 over this.
            level: ``response``: u is one number for a response. ``token``: it is each token's own.
        """

        type: Literal["vogue"] = "vogue"
        of: AdvantageField = GroupRelative.Config(baseline="per-origin", scale="per-origin")
        alpha: float = Field(default=1.0, ge=0.0, le=1e6)
        kappa: float = Field(default=2.0, gt=0.0, le=1e6)
        level: Literal["response", "token"] = "response"

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The divergence, and what the other advantage needs."""
        return self.of.needs | {DIVERGENCE}

    @property
    def per_token(self) -> bool:
        """Whether bonuses or the other advantage are per token."""
        return self.config.level == "token" or self.of.per_token

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Advantages:
        """Return the raised advantages."""
        inner: Sequence[float | Tensor] = self.of.estimate(scored, rewards)
        values = [self._raised(value, scored, n) for n, value in enumerate(inner)]
        if not any(isinstance(value, Tensor) for value in values):
            return [float(value) for value in values]
        return [at_tokens(value, response) for value, response in zip(values, scored.group.responses, strict=True)]

    def _raised(self, value: float | Tensor, scored: ScoredGroup, n: int) -> float | Tensor:
        response = scored.group.responses[n]
        divergence_T = scored.statistics[DIVERGENCE][n, : len(response)].float().clamp(min=0)
        if not scored.group.sampled_from[n]:
            return value
        alpha, kappa = self.config.alpha, self.config.kappa
        if self.config.level == "response":
            mean = float(divergence_T.mean()) if len(response) else 0.0
            if not isinstance(value, Tensor):
                return value + min(alpha * mean, abs(value) / kappa)
            divergence_T = divergence_T.new_full((len(response),), mean)
        value_T = at_tokens(value, response)
        return value_T + (alpha * divergence_T).minimum(value_T.abs() / kappa)
