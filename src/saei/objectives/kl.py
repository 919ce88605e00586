"""The KL penalty: stay near the reference policy."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term
from saei.objectives.view_weight import view_weight

REFERENCE_LOGP = Need("logp", policy="reference")
DIVERGENCE = Need("kl", policy="reference", grad=True)


class KL(Term):
    """``coefficient * KL(policy || reference)`` at each token, both under the update view, in nats.

    It is estimated by k3, which is ``exp(d) - d - 1`` with ``d = reference_logp - logp`` at the sampled token, or taken
    in full over the vocabulary. k3 estimates the divergence only from tokens drawn from the policy under the update
    view; tokens of a response drawn from another view are therefore given the fully corrected view weight (beta 1),
    whatever beta the policy loss uses. The full divergence needs no weight, whatever the tokens were drawn from, and
    costs four more products with the output layer.

    Metrics: ``mean``, the estimate without its coefficient; ``touched``, the share of the tokens with a penalty.

    Source: http://joschu.net/blog/kl-approx.html for k3, https://arxiv.org/abs/2402.03300 for its place in GRPO;
    the weight off the view is original.
    """

    class Config(StrategyConfig):
        """Fields of the KL penalty.

        Attributes:
            coefficient: Weight of the penalty.
            estimate: ``k3`` at the sampled tokens, or ``full``: over the whole vocabulary.
            bias_correction: Multiply k3 by the token's ratio to the old policy, gradient included. The penalty's
                gradient is then that of the divergence itself, which plain k3's is not even at ratio 1
                (https://arxiv.org/abs/2512.02556); GRPO's original penalty goes without.
        """

        type: Literal["kl"] = "kl"
        coefficient: float = Field(default=0.01, ge=0.0, le=1e6)
        estimate: Literal["k3", "full"] = "k3"
        bias_correction: bool = False

        @model_validator(mode="after")
        def _bias_of_an_estimate(self) -> Self:
            if self.bias_correction and self.estimate == "full":
                raise ValueError("bias_correction mends the k3 estimate, and estimate is full. Leave one of them out.")
            return self

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The reference's log-probabilities, or the divergence from it."""
        return frozenset({DIVERGENCE if self.config.estimate == "full" else REFERENCE_LOGP})

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the penalty over all response tokens."""
        acting = touched(inputs.mask_RT & (self.config.coefficient > 0), inputs.mask_RT)
        if self.config.estimate == "full":
            penalty_RT = torch.where(inputs.mask_RT, inputs.statistics[DIVERGENCE], 0.0)
            value = self.config.coefficient * aggregate(penalty_RT)
            return Loss(value, {"mean": per_response(penalty_RT, inputs.mask_RT), **acting})
        difference_RT = torch.where(inputs.mask_RT, inputs.statistics[REFERENCE_LOGP] - inputs.logp_RT, 0.0)
        k3_RT = k3(difference_RT)
        if self.config.bias_correction:
            k3_RT = k3_RT * torch.where(inputs.mask_RT, inputs.logp_RT - inputs.old_logp_RT, 0.0).exp()
        weight_RT = view_weight(inputs, torch.ones_like(inputs.beta_R))
        penalty_RT = k3_RT * weight_RT
        value = self.config.coefficient * aggregate(penalty_RT)
        return Loss(value, {"mean": per_response(penalty_RT, inputs.mask_RT), **acting})


def k3(difference: Tensor) -> Tensor:
    """Return ``exp(d) - d - 1``, an estimate of ``KL(p || q)`` from tokens drawn from p with ``d = log q - log p``.

    Written with ``expm1``: at small d, where it is ``d² / 2``, ``exp(d) - 1`` would have no digits left in float32.
    """
    return difference.expm1() - difference
