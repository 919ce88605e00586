"""PAPO: a policy that would say something else of a masked picture."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac, StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term
from saei.objectives.kl import k3
from saei.objectives.sampled_entropy import surprise
from saei.objectives.view_weight import view_weight
from saei.views import PatchFields


class PAPO(Term):
    """Raises the divergence of the policy from itself on a masked picture, and lowers two sampled entropies.

    The loss is ``-coefficient · KL(π‖π_masked) + own_entropy · S(π) + masked_entropy · S(π_masked)``, each a mean over
    tokens as the objective takes it, with S the mean of ``-log p`` at the drawn tokens (the "double entropy loss"; it
    is no entropy's gradient, see ``sampled-entropy``). π looks at the picture of the update view, π_masked at the same
    with random black patches. There are two forms:

    - ``recompute: false``, the authors' default: π_masked is the old policy's, computed once per step in a pass without
      gradient. The divergence has a gradient through π alone, and the masked entropy has none: it only shows in the
      loss.
    - ``recompute: true``: π_masked is the current policy's, computed with gradient in each optimiser step. The
      divergence has a gradient through both, and so has the masked entropy. It costs a second forward and backward
      pass.

    The k3 estimate is ``exp(d) - d - 1`` with ``d = log π_masked - log π`` at the drawn token, cut off at ``cap``; a
    token beyond it has no gradient. It holds for tokens drawn from the policy under the update view: those of responses
    drawn from another view have the view weight of beta 1, as in the term ``kl``. The full divergence is over the
    vocabulary. Responses trained under a view without a picture are left out.

    Metrics: ``mean``, the divergence; ``own_entropy`` and ``masked_entropy``, without their coefficients; ``touched``,
    the share of the tokens whose divergence is below the cap.

    Source: https://arxiv.org/abs/2507.06448 and its code. The defaults are those of its runs of GRPO with a reference
    KL; without one it takes ``coefficient: 0.01, own_entropy: 0.03, masked_entropy: 0.03``.
    """

    class Config(PatchFields, StrategyConfig):
        """Fields of PAPO.

        Attributes:
            coefficient: Weight of the divergence.
            estimate: ``k3`` at the drawn tokens, or ``full``: over the whole vocabulary.
            cap: Largest k3 of a token, in nats; None for no cap.
            recompute: Whether the masked picture is looked at anew in each optimiser step, with gradient.
            own_entropy: Weight of the sampled entropy under the picture.
            masked_entropy: Weight of the one under the masked picture.
        """

        type: Literal["papo"] = "papo"
        coefficient: float = Field(default=0.02, ge=0.0, le=1e6)
        estimate: Literal["k3", "full"] = "k3"
        cap: float | None = Field(default=10.0, gt=0.0, le=1e6)
        recompute: bool = False
        own_entropy: float = Field(default=0.05, ge=0.0, le=1e6)
        masked_entropy: float = Field(default=0.05, ge=0.0, le=1e6)
        probability: Frac = Field(default=Fraction(3, 5), gt=0, le=1)

        @model_validator(mode="after")
        def _cap_of_an_estimate(self) -> Self:
            if self.estimate == "full" and self.cap != type(self).model_fields["cap"].default:
                raise ValueError("cap cuts off the k3 estimate, and estimate is full. Leave one of them out.")
            return self

    config: Config

    @cached_property
    def masked_logp(self) -> Need:
        """The log-probabilities under the masked picture."""
        return Need(
            "logp", self.config.patches, "current" if self.config.recompute else "old", grad=self.config.recompute
        )

    @cached_property
    def divergence(self) -> Need:
        """The full divergence."""
        recompute = self.config.recompute
        return Need("kl", self.config.patches, "current" if recompute else "old", grad="both" if recompute else True)

    @property
    def needs(self) -> frozenset[Need]:
        """What the masked picture is looked at for."""
        full = self.config.estimate == "full"
        with_entropy = {self.masked_logp} if self.config.masked_entropy else set()
        return frozenset({self.divergence} | with_entropy if full else {self.masked_logp})

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the loss over all response tokens."""
        config, mask_RT = self.config, inputs.mask_RT
        divergence_RT, below_RT = self._divergence(inputs)
        own_RT = surprise(inputs.logp_RT, mask_RT)
        value = config.own_entropy * aggregate(own_RT) - config.coefficient * aggregate(divergence_RT)
        metrics = {"mean": per_response(divergence_RT, mask_RT), "own_entropy": per_response(own_RT, mask_RT)}
        if self.masked_logp in self.needs:
            masked_RT = surprise(inputs.statistics[self.masked_logp], mask_RT)
            value = value + config.masked_entropy * aggregate(masked_RT)
            metrics["masked_entropy"] = per_response(masked_RT, mask_RT)
        return Loss(value, metrics | touched(below_RT, mask_RT))

    def _divergence(self, inputs: ObjectiveInput) -> tuple[Tensor, Tensor]:
        """Return the divergences, 0 on padding, and which tokens have a gradient."""
        mask_RT = inputs.mask_RT
        if self.config.estimate == "full":
            return torch.where(mask_RT, inputs.statistics[self.divergence], 0.0), mask_RT
        d_RT = torch.where(mask_RT, inputs.statistics[self.masked_logp] - inputs.logp_RT, 0.0)
        k3_RT, below_RT = k3(d_RT), mask_RT
        if self.config.cap is not None:
            below_RT = mask_RT & (k3_RT.detach() < self.config.cap)
            # Masked before the exponential: where that is infinite, 0 times its slope would be NaN.
            k3_RT = torch.where(below_RT, k3(torch.where(below_RT, d_RT, 0.0)), mask_RT * self.config.cap)
        return k3_RT * view_weight(inputs, torch.ones_like(inputs.beta_R)), below_RT
