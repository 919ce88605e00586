"""KL-Cov: hold back the few tokens whose log-probability and advantage vary together the most."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import Frac
from saei.need import Need
from saei.objectives.aggregation import per_response, token_mean
from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.batch import UpdateBatch
from saei.objectives.covariance import covariance
from saei.objectives.ratio import PolicyRatio

LOGP = Need("logp")


class KLCov(Objective):
    """``-ratio * A`` per token without a clip, plus ``coefficient * |logp - old_logp|`` on the top share by covariance.

    The tokens are chosen from those of the whole update batch of all processes that the token selector and the weights
    leave to the loss: ``max(1, int(share * tokens))`` of them with the largest ``(A - mean A) * (logp - mean logp)``,
    of equal ones the first; none where all advantages are equal. A view weight multiplies the whole of a token's loss.
    The loss is one mean over all tokens, as in the authors' code.

    Choosing needs the current log-probabilities of the whole batch before its loss: a pass without gradient in each
    optimiser step but the first, which shares that of the old policy.

    Metrics: those of the clipped surrogate (``clip_share`` is 0), ``penalised`` and ``penalised_tokens``, the share and
    the number of the tokens with a penalty; at a ratio of exactly 1 it has no gradient, and the token does not count.

    Source: https://arxiv.org/abs/2505.22617; verl's code chooses in each micro-batch of each process.
    """

    off_policy_only: ClassVar[bool] = True

    class Config(Objective.Config):
        """The penalty acts only with several updates per batch: at ratio 1 it has no gradient.

        The defaults are those of the paper's runs with 7B models; verl's have a share of 0.0002 and a coefficient of
        0.1.

        Attributes:
            share: Share of the update batch's tokens, of those that the loss acts on, that is penalised; at least one
                token.
            coefficient: Weight of the penalty.
        """

        type: Literal["kl-cov"] = "kl-cov"
        share: Frac = Field(default=Fraction(1, 500), gt=0, le=1)
        coefficient: float = Field(default=1.0, ge=0.0, le=1e6)

    config: Config

    @property
    def batch_needs(self) -> frozenset[Need]:
        """The current policy's log-probabilities."""
        return frozenset({LOGP})

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the tokens with a penalty, 1 there and 0 elsewhere."""
        used_RT = batch.used()
        covariance_RT = covariance(batch.advantage_RT, batch.statistics[LOGP], used_RT)
        penalised_RT = torch.zeros(used_RT.shape, device=used_RT.device)
        if covariance_RT.any():
            token_places = used_RT.nonzero()
            count = max(1, int(self.config.share * len(token_places)))
            order = covariance_RT[used_RT].argsort(descending=True, stable=True)
            penalised_RT[tuple(token_places[order[:count]].T)] = 1.0
        return {"penalised": penalised_RT}

    def policy_loss(self, inputs: ObjectiveInput) -> Loss:
        """Return the loss of the selected tokens, with the penalty on the chosen ones of them."""
        ratio = PolicyRatio.of(inputs)
        penalised_RT = inputs.prepared["penalised"] * inputs.selected_RT
        penalty_RT = self.config.coefficient * penalised_RT * ratio.log_RT.abs()
        value = self.aggregate((penalty_RT - ratio.ratio_RT * inputs.advantage_RT) * ratio.weight_RT, inputs)
        metrics = ratio.metrics(torch.zeros_like(inputs.selected_RT))
        acting_RT = penalised_RT * (ratio.log_RT.detach() != 0)
        metrics["penalised"] = per_response(acting_RT, inputs.selected_RT)
        metrics["penalised_tokens"] = acting_RT.sum(dim=1)
        return Loss(value, metrics)

    def aggregate(self, values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
        """Return the mean over the selected tokens of the update batch."""
        return token_mean(values_RT, inputs)
