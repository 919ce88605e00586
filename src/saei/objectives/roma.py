"""ROMA: what the policy said of a clean picture, it should also say of degraded ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term
from saei.objectives.batch import UpdateBatch
from saei.objectives.kl import k3
from saei.objectives.view_weight import view_weight
from saei.views import Blur, Compression, Degradation, LowResolution


class ROMA(Term):
    """Holds right responses as likely under degraded pictures as under the picture that they are trained on.

    No response is drawn from a degraded picture: each is scored on all of them, with gradient, which costs a forward
    and a backward pass per degraded view. Over the tokens of right responses drawn from the clean view alone, the loss
    is

        coefficient · KL - auxiliary · log π(degraded) · A.

    KL is Schulman's k3 estimate ``exp(d) - d - 1`` of the divergence of the policy on the degraded picture from the
    policy on the update view, ``d = log π(degraded) - log π``, of the worst view: at each token the one where it is
    largest, or for each response the one where its mean is. The update view's side is a target without gradient unless
    ``clean_gradient``. The estimate holds for tokens drawn from the policy under the update view: those of responses
    trained under another view than the clean one have the view weight of beta 1, as in the term ``kl``; replayed tokens
    are refused. The second part is a policy gradient: the advantage A of the token, drawn on the clean picture,
    on the log-probability under one degraded view, which is drawn at random for each response. A is 0 at tokens that
    the policy loss does not use.

    The denominators are those of all responses. Responses trained under a view without a picture are left out, and so
    are right ones that a sampler drew from another view than the clean one, since the paper holds on to what was said
    of clean pictures.

    Metrics: ``mean``, the worst view's divergence, and ``auxiliary``, the value of the second part, both without
    coefficients and over these responses; ``touched``, the share of the tokens that are in them.

    Source: https://arxiv.org/abs/2605.09262. No code is known. Which side of the divergence has a gradient,
    coefficients and degradations of the defaults are ours; the kinds of degradation are among those that the paper
    trains on.
    """

    class Config(StrategyConfig):
        """Fields of ROMA.

        Attributes:
            views: How pictures are degraded, one view each.
            coefficient: Weight of the worst view's divergence.
            auxiliary: Weight of the policy gradient under a degraded view.
            worst: Whether the worst view is chosen at each token or for each response.
            clean_gradient: Whether the update view's side of the divergence has a gradient, too.
        """

        type: Literal["roma"] = "roma"
        views: tuple[Degradation, ...] = Field(
            default=(Blur.Config(), Compression.Config(), LowResolution.Config()), min_length=1, max_length=16
        )
        coefficient: float = Field(default=0.01, ge=0.0, le=1e6)
        auxiliary: float = Field(default=0.1, ge=0.0, le=1e6)
        worst: Literal["token", "response"] = "token"
        clean_gradient: bool = False

    config: Config

    @cached_property
    def degraded(self) -> tuple[Need, ...]:
        """The log-probabilities under each degraded view, with gradient."""
        return tuple(Need("logp", view=view, grad=True) for view in self.config.views)

    @property
    def needs(self) -> frozenset[Need]:
        """The log-probabilities under the degraded views."""
        return frozenset(self.degraded)

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Draw for each response the degraded view of its policy gradient."""
        return {"view": torch.randint(len(self.degraded), (len(batch.rows),), generator=generator)}

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the loss over the tokens of right responses to clean views."""
        assert inputs.correct_R is not None, "what is right is not known"
        right_R = inputs.correct_R if inputs.clean_R is None else inputs.correct_R & inputs.clean_R
        right_RT = inputs.mask_RT & right_R[:, None]
        clean_RT = inputs.logp_RT if self.config.clean_gradient else inputs.logp_RT.detach()
        degraded_KRT = torch.stack([inputs.statistics[need] for need in self.degraded])
        divergence_KRT = k3(torch.where(right_RT, degraded_KRT - clean_RT, 0.0))
        worst_RT = self._worst(divergence_KRT, right_RT) * view_weight(inputs, torch.ones_like(inputs.beta_R))
        drawn_RT = degraded_KRT.gather(0, inputs.prepared["view"][None, :, None].expand(1, *right_RT.shape))[0]
        gain_RT = torch.where(right_RT, drawn_RT * inputs.advantage_RT, 0.0)
        value = self.config.coefficient * aggregate(worst_RT) - self.config.auxiliary * aggregate(gain_RT)
        metrics = {
            "mean": per_response(worst_RT, right_RT),
            "auxiliary": per_response(gain_RT, right_RT),
            **touched(right_RT, inputs.mask_RT),
        }
        return Loss(value, metrics)

    def _worst(self, divergence_KRT: Tensor, right_RT: Tensor) -> Tensor:
        """Return the divergence of the worst view at each token, ``[R, T]``; K views."""
        if self.config.worst == "token":
            return divergence_KRT.max(dim=0).values  # of equal ones one alone has the gradient
        worst_R = divergence_KRT.detach().sum(dim=2).argmax(dim=0)
        return divergence_KRT.gather(0, worst_R[None, :, None].expand(1, *right_RT.shape))[0]
