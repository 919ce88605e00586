"""The entropy bonus: pay the policy for staying undecided."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term

ENTROPY = Need("entropy", grad=True)


class EntropyBonus(Term):
    """``-coefficient`` times the mean token entropy under the update view, in nats; averaged as the objective does.

    Metrics: ``mean``, the entropy without its coefficient; ``touched``, the share of the tokens that get the bonus.

    Source: https://arxiv.org/abs/1602.01783, section 4.
    """

    class Config(StrategyConfig):
        """Fields of the entropy bonus.

        Attributes:
            coefficient: Weight of the bonus.
        """

        type: Literal["entropy-bonus"] = "entropy-bonus"
        coefficient: float = Field(default=0.001, ge=0.0, le=1e6)

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The current policy's entropy."""
        return frozenset({ENTROPY})

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the negative bonus over all response tokens."""
        entropy_RT = torch.where(inputs.mask_RT, inputs.statistics[ENTROPY], 0.0)
        value = -self.config.coefficient * aggregate(entropy_RT)
        acting_RT = inputs.mask_RT & (self.config.coefficient > 0)
        return Loss(value, {"mean": per_response(entropy_RT, inputs.mask_RT), **touched(acting_RT, inputs.mask_RT)})
