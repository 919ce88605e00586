"""The mean of -log p at the drawn tokens, which PAPO and VPPO add to their loss as an entropy."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term


class SampledEntropy(Term):
    """``coefficient`` times the mean of ``-log p`` at the drawn tokens, in nats: lowered, as a penalty on entropy.

    The mean of ``-log p`` over draws is the entropy. Its gradient is not that of the entropy: for tokens drawn from the
    current policy it is 0 on average, so that what it does it does by chance, or off the policy. It makes each drawn
    token likelier, whatever it was good for.

    Metrics: ``mean``, the value without its coefficient; ``touched``, the share of the tokens that are penalised.

    Source: the entropy penalty of VPPO (https://arxiv.org/abs/2510.09285), whose coefficient is the default.
    """

    class Config(StrategyConfig):
        """Fields of the penalty.

        Attributes:
            coefficient: Weight of the penalty.
        """

        type: Literal["sampled-entropy"] = "sampled-entropy"
        coefficient: float = Field(default=0.06, ge=0.0, le=1e6)

    config: Config

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the penalty over all response tokens."""
        surprise_RT = surprise(inputs.logp_RT, inputs.mask_RT)
        value = self.config.coefficient * aggregate(surprise_RT)
        acting_RT = inputs.mask_RT & (self.config.coefficient > 0)
        return Loss(value, {"mean": per_response(surprise_RT, inputs.mask_RT), **touched(acting_RT, inputs.mask_RT)})


def surprise(logp_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Return ``-log p`` at the tokens, 0 on padding."""
    return torch.where(mask_RT, -logp_RT, 0.0)
