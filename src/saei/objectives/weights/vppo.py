"""VPPO: the gradient goes to the tokens that depend on the picture, and more of it to the responses that do."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import Frac
from saei.need import Need
from saei.objectives.aggregation import per_response
from saei.objectives.batch import UpdateBatch
from saei.objectives.kl import k3
from saei.objectives.weights.base import Weight
from saei.views import PatchFields

OLD_LOGP = Need("logp", policy="old")

EVEN = 1e-6
"""Distance of the least from the most sensitive response below which all count alike, as in the authors' code."""


class VPPO(Weight):
    """0 on tokens that hardly depend on the picture; on the others a factor by how much their response does.

    A token's sensitivity is the k3 estimate ``exp(d) - d - 1``, in nats and cut off at ``cap``, with d the old policy's
    log-probability of the token on the picture with random black patches less the one on the update view. In each
    response of L tokens the ``ceil(L * share)`` most sensitive count, of equal ones the earlier. A response's
    sensitivity s is the mean over all of its tokens. Over the responses of the update batch n = (s - min s) / (max s -
    min s), and the factor is

        scale_min + n · (1 - scale_min) / mean n,

    whose mean is 1. Responses trained under a view without a picture have weight 0 and are not in the means.

    It is the token selection of the selector ``visual-logp``, with the factor. VPPO's entropy penalty is a term of its
    own, ``{type: sampled-entropy, coefficient: 0.06}``.

    Metrics beside those of every weight, which counts the tokens with a factor as touched: ``kept`` and
    ``kept_tokens``, the share and the number of the tokens that count.

    Source: https://arxiv.org/abs/2510.09285 and its code, which takes the mean of n over each micro-batch. Its share,
    its least factor and, in the denominators of the loss, the tokens of weight 0 are the defaults. There patches are
    drawn anew in each step, here once for each view.
    """

    class Config(PatchFields, Weight.Config):
        """Fields of VPPO.

        Attributes:
            share: Share of a response's tokens that count.
            scale_min: Factor of the least sensitive response; 1 leaves advantages as they are.
            cap: Largest sensitivity of a token, in nats.
        """

        type: Literal["vppo"] = "vppo"
        share: Frac = Field(default=Fraction(2, 5), gt=0, le=1)
        scale_min: float = Field(default=0.9, ge=0.0, le=1.0)
        cap: float = Field(default=10.0, gt=0.0, le=1e6)

    config: Config

    @property
    def masked_logp(self) -> Need:
        """The old policy's log-probabilities on the picture with black patches."""
        return Need("logp", view=self.config.patches, policy="old")

    @property
    def needs(self) -> frozenset[Need]:
        """The old policy's log-probabilities on both pictures."""
        return frozenset({OLD_LOGP, self.masked_logp})

    def metrics(self, batch: UpdateBatch) -> Mapping[str, Tensor]:
        """Return the share and the number of each response's tokens that are kept."""
        kept_RT = self._kept(self._sensitivity(batch), batch.mask_RT)
        return {"kept": per_response(kept_RT, batch.mask_RT), "kept_tokens": kept_RT.sum(dim=1).float()}

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the weights."""
        sensitivity_RT = self._sensitivity(batch)
        return self._kept(sensitivity_RT, batch.mask_RT) * self._factors(sensitivity_RT, batch.mask_RT)[:, None]

    def _sensitivity(self, batch: UpdateBatch) -> Tensor:
        """Return the sensitivity of each token, 0 on padding."""
        changed_RT, own_RT = batch.statistics[self.masked_logp], batch.statistics[OLD_LOGP]
        return k3(torch.where(batch.mask_RT, changed_RT - own_RT, 0.0)).clamp(0.0, self.config.cap)

    def _kept(self, sensitivity_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """Return the most sensitive tokens of each response."""
        order_RT = torch.where(mask_RT, -sensitivity_RT, torch.inf).argsort(dim=1, stable=True)
        rank_RT = order_RT.argsort(dim=1)
        lengths = mask_RT.sum(dim=1).tolist()
        kept_R = torch.tensor(
            [-(-length * self.config.share // 1) for length in map(int, lengths)], device=mask_RT.device
        )
        return mask_RT & (rank_RT < kept_R[:, None])

    def _factors(self, sensitivity_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """Return the factor of each response, 1 where there is nothing to tell them apart by."""
        some_R = mask_RT.any(dim=1)
        factor_R = torch.ones_like(sensitivity_RT[:, 0])
        mean_R = sensitivity_RT.sum(dim=1)[some_R] / mask_RT.sum(dim=1)[some_R]
        if len(mean_R) < 2 or float(mean_R.max() - mean_R.min()) <= EVEN:
            return factor_R
        share_R = (mean_R - mean_R.min()) / (mean_R.max() - mean_R.min())
        least = self.config.scale_min
        factor_R[some_R] = least + share_R * (1 - least) / share_R.mean()
        return factor_R
