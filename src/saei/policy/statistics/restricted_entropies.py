"""Entropies over a part of the vocabulary, whose probabilities are made to sum to 1.

m tokens of a chunk, V vocabulary, k its likeliest tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from saei.config.strategy import Frac, StrategyConfig
from saei.entropy.fused import FLOOR
from saei.entropy.token_states import TokenStates, fused_per_token
from saei.policy.module import Distribution
from saei.policy.statistics.base import DistributionStatistic

_FEW = 256
"""Likeliest tokens that are looked at first: they hold the nucleus of nearly every token, and a whole sort is slow."""


class RestrictedEntropy(DistributionStatistic):
    """Entropy over a part of the vocabulary, with the temperature of ``entropy``. To add one, implement ``part``."""

    @abstractmethod
    def part(self, logp_mV: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``[m, k]`` and which of them belong to the part, a constant of the gradient.

        That is bool ``[m, k]``, or how much of each belongs, in [0, 1].
        """

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return the entropies."""
        entropy_m: Tensor = _Entropy.apply(*self.part(logp_mV))  # type: ignore[no-untyped-call]  # torch has no types
        return entropy_m

    def compute(self, states: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return the entropies, their gradient fused with the head."""
        temperature = distribution.entropy_temperature or distribution.temperature
        return fused_per_token(
            self.of_distribution, states, ids_M=ids_M, temperature=temperature, banned_V=distribution.banned_V
        )


class ClampedEntropy(RestrictedEntropy):
    """Entropy over the vocabulary without its least likely tokens at each place, in nats.

    Of V ids, banned ones included, the ``floor(V * clamp)`` least likely are left out. Where equally likely ids stand
    at the border, each of them belongs to the same extent.

    Source: AEnt's clamped entropy (https://arxiv.org/abs/2509.03493).
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            clamp: Share of the vocabulary that is left out.
        """

        type: Literal["clamped-entropy"] = "clamped-entropy"
        clamp: Frac = Field(default=Fraction(3, 10), ge=0, lt=1)

    config: Config

    def part(self, logp_mV: Tensor) -> tuple[Tensor, Tensor]:
        """Return all log-probabilities, and which of them are left in."""
        width = logp_mV.shape[-1]
        left_out = int(width * self.config.clamp)
        if not left_out:
            return logp_mV, torch.ones_like(logp_mV, dtype=torch.bool)
        fixed_mV = logp_mV.detach()
        border_m1 = _kth_smallest(fixed_mV, left_out)
        inside_mV = fixed_mV > border_m1
        left_in_m1 = width - left_out - inside_mV.sum(-1, keepdim=True)  # of those at the border
        if not bool(left_in_m1.any()):
            return logp_mV, inside_mV
        at_border_mV = fixed_mV == border_m1
        share_m1 = (left_in_m1 / at_border_mV.sum(-1, keepdim=True)).to(fixed_mV.dtype)
        return logp_mV, torch.where(at_border_mV, share_m1, inside_mV.to(fixed_mV.dtype))


class NucleusEntropy(RestrictedEntropy):
    """Entropy over the top-p nucleus: the fewest likeliest tokens that have the share p of the probability, in nats.

    Where one token has that share, the entropy is 0.

    Source: SIREN's top-p mask (https://arxiv.org/abs/2509.25133), whose code also looks at 10,000 tokens at most.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            p: Share of the probability.
            k: Most tokens of a nucleus.
            crossing: Whether the token with which the share is reached belongs to the nucleus, as it does by
                definition. The authors' code leaves it out.
        """

        type: Literal["nucleus-entropy"] = "nucleus-entropy"
        p: Frac = Field(default=Fraction(4, 5), gt=0, le=1)
        k: int = Field(default=10_000, ge=1, le=1_000_000)
        crossing: bool = True

    config: Config

    def part(self, logp_mV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens' log-probabilities, and which of them are the nucleus."""
        share, most = float(self.config.p), min(self.config.k, logp_mV.shape[-1])
        for k in dict.fromkeys((min(_FEW, most), most)):
            likeliest_mk = logp_mV.topk(k, dim=-1).values
            p_mk = likeliest_mk.detach().exp()
            reached_mk = p_mk.cumsum(-1)
            if k == most or bool((reached_mk[:, -1] > share).all()):
                break
        before_mk = reached_mk - p_mk if self.config.crossing else reached_mk
        inside_mk = before_mk < share
        if self.config.crossing:
            inside_mk[:, 0] = True
        return likeliest_mk, inside_mk


def _kth_smallest(values_mV: Tensor, k: int) -> Tensor:
    """Return the k-th smallest value of each row, ``[m, 1]``; on the CPU by NumPy, six times as fast as torch."""
    if values_mV.device.type != "cpu" or values_mV.dtype not in (torch.float32, torch.float64):
        return values_mV.kthvalue(k, dim=-1, keepdim=True).values
    return torch.from_numpy(np.partition(values_mV.numpy(), k - 1, axis=-1)[:, k - 1 : k])


class _Entropy(torch.autograd.Function):
    """Entropy of weighted and normalised probabilities, with the slope ``-q (log p' + H)``, q and p' normalised.

    Autograd's own slope is a difference of numbers near 1, of which nothing is left at a confident token.
    """

    @staticmethod
    def forward(ctx: Any, logp_mk: Tensor, belongs_mk: Tensor) -> Tensor:
        if belongs_mk.dtype == torch.bool:
            weighed_mk = logp_mk.masked_fill(~belongs_mk, FLOOR)
        else:
            weighed_mk = (logp_mk + belongs_mk.log()).clamp_min(FLOOR)
        total_m1 = weighed_mk.logsumexp(-1, keepdim=True)
        q_mk = (weighed_mk - total_m1).exp_()
        q_mk *= belongs_mk.any(-1, keepdim=True)  # where nothing belongs
        terms_mk = (logp_mk - total_m1).mul_(q_mk)
        entropy_m = 0.0 - terms_mk.sum(-1)
        ctx.save_for_backward(terms_mk.addcmul_(q_mk, entropy_m[:, None]))
        return entropy_m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_m: Tensor) -> tuple[Tensor, None]:
        (slope_mk,) = ctx.saved_tensors
        return -grad_m[:, None] * slope_mk, None
