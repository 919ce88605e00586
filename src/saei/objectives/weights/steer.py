"""STEER: weigh a token the less, the more its update is estimated to change the entropy."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.need import Need
from saei.objectives.batch import UpdateBatch
from saei.objectives.weights.base import Weight

LOGP = Need("logp")
OLD_LOGP = Need("logp", policy="old")
ENTROPY = Need("entropy")

LEAST_PROBABILITY = 1e-8
"""Bound of probabilities, and of their distance from 1, in the authors' code."""


class Steer(Weight):
    """``exp(-k |omega|)`` with ``omega = A / p_old * p (1 - p) (log p + H)``, an estimate of the change of entropy.

    p is the current probability of a token and H the entropy in nats. k is such that the largest ``|omega|`` of the
    update batch, in all processes, gets the weight ``smallest``; it is taken to be at least ``floor``, so that a batch
    that hardly changes the entropy keeps its weights near 1.

    It acts with a single update per batch, too. The current values of the whole batch cost a pass without gradient in
    each optimiser step but the first, which shares that of the old policy, or takes the sampling pass's where it is
    the only one and the responses are trained under the views that they were drawn from.

    Source: https://arxiv.org/abs/2510.10150; k, ``floor`` and the bounds of probabilities are those of the authors'
    code (``linear=False``), which takes the largest of each micro-batch.
    """

    class Config(Weight.Config):
        """The defaults are those of the authors' scripts.

        Attributes:
            smallest: The weight of the token that changes the entropy most.
            floor: The largest ``|omega|`` counts as at least this.
        """

        type: Literal["steer"] = "steer"
        smallest: float = Field(default=0.8, gt=0.0, le=1.0)
        floor: float = Field(default=0.02, gt=0.0, le=1e6)

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The current policy's log-probabilities and entropies, and the old one's log-probabilities."""
        return frozenset({LOGP, OLD_LOGP, ENTROPY})

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return weights from ``smallest`` to 1."""
        omega_RT = torch.where(batch.mask_RT, self._change(batch).abs(), 0.0)
        if not omega_RT.numel():
            return torch.ones(batch.mask_RT.shape, device=batch.mask_RT.device)
        k = -math.log(self.config.smallest) / max(float(omega_RT.max()), self.config.floor)
        return (-k * omega_RT).exp().float()

    @staticmethod
    def _change(batch: UpdateBatch) -> Tensor:
        """Return omega, float64 ``[R, T]``."""
        p_RT = batch.statistics[LOGP].double().exp().clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        old_RT = batch.statistics[OLD_LOGP].double().exp().clamp(min=LEAST_PROBABILITY)
        slope_RT = p_RT * (1 - p_RT) * (p_RT.log() + batch.statistics[ENTROPY])
        return batch.advantage_RT / old_RT * slope_RT
