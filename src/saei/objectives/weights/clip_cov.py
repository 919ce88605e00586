"""Clip-Cov: leave out a few of the tokens whose log-probability and advantage vary together."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.config.strategy import Frac
from saei.need import Need
from saei.objectives.aggregation import per_response
from saei.objectives.batch import UpdateBatch
from saei.objectives.covariance import covariance
from saei.objectives.weights.base import Weight

LOGP = Need("logp")
OLD_LOGP = Need("logp", policy="old")


class ClipCov(Weight):
    """0 on tokens drawn at random from those whose covariance lies between two bounds, 1 on the others.

    The candidates are the tokens of the whole update batch, in all processes, that no weight before it zeroed, with
    ``low < (A - mean A) * (logp - mean logp) < high`` that PPO's clip has not already cut; of them
    ``max(1, int(share * tokens))`` are drawn, or all if there are fewer. It acts with a single update per batch, too:
    at ratio 1 the clip has cut nothing. Small models may have no token of a covariance above 1, so the candidates are
    counted.

    The current log-probabilities of the whole batch cost a pass without gradient in each optimiser step but the first,
    which shares that of the old policy, or takes the sampling pass's where it is the only one and the responses are
    trained under the views that they were drawn from.

    Metrics beside those of every weight: ``candidates`` and ``candidates_tokens``, their share and their number.

    Source: https://arxiv.org/abs/2505.22617; verl's code chooses in each micro-batch of each process.
    """

    class Config(Weight.Config):
        """The defaults are those of the paper and of its code in verl.

        Attributes:
            share: Share of the update batch's tokens that is left out, of those that no weight before it zeroed.
            low: Covariance above which a token is a candidate.
            high: Covariance below which it is one.
            exclude_clipped: Tokens that PPO's clip has already cut are no candidates, as in verl's code. The paper's
                formula draws from all tokens between the bounds.
            clip_low: The objective's lower clip, for ``exclude_clipped``.
            clip_high: The objective's upper clip, likewise.
            at_least_one: Leave out a token also where the share comes to less than one, as verl's code does. The
                paper's formula then leaves out none.
            count_zeroed: Tokens that are left out still count in the mean, as in verl's code.
        """

        type: Literal["clip-cov"] = "clip-cov"
        share: Frac = Field(default=Fraction(1, 5000), gt=0, le=1)
        low: float = 1.0
        high: float = 5.0
        exclude_clipped: bool = True
        clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
        clip_high: float = Field(default=0.2, ge=0.0, le=1e6)
        at_least_one: bool = True

        @model_validator(mode="after")
        def _something_between(self) -> Self:
            if self.low >= self.high:
                raise ValueError(f"Nothing lies between low={self.low:g} and high={self.high:g}. Lower low.")
            return self

        @model_validator(mode="after")
        def _clip_is_asked_for(self) -> Self:
            fields = type(self).model_fields
            for name in ("clip_low", "clip_high"):
                if not self.exclude_clipped and getattr(self, name) != fields[name].default:
                    raise ValueError(f"{name} says what the clip has cut, and exclude_clipped is false. Leave one out.")
            return self

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The current policy's log-probabilities, and those of the old one for the ratio."""
        return frozenset({LOGP, OLD_LOGP} if self.config.exclude_clipped else {LOGP})

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return 0 on the tokens that are left out."""
        candidate_places = self._candidates(batch).nonzero()
        count = int(self.config.share * int(batch.used().sum()))
        if self.config.at_least_one:
            count = max(1, count)
        # Numbered by row and token, so that the draw does not depend on padding or on who has which row.
        drawn = torch.randperm(len(candidate_places), generator=generator)[:count].to(candidate_places.device)
        weight_RT = torch.ones(batch.mask_RT.shape, device=batch.mask_RT.device)
        weight_RT[tuple(candidate_places[drawn].T)] = 0.0
        return weight_RT

    def metrics(self, batch: UpdateBatch) -> Mapping[str, Tensor]:
        """Return the share and the number of each response's tokens that were candidates."""
        candidates_RT = self._candidates(batch)
        return {
            "candidates": per_response(candidates_RT, batch.mask_RT),
            "candidates_tokens": candidates_RT.sum(dim=1).float(),
        }

    def _candidates(self, batch: UpdateBatch) -> Tensor:
        used_RT = batch.used()
        covariance_RT = covariance(batch.advantage_RT, batch.statistics[LOGP], used_RT)
        candidates_RT = used_RT & (covariance_RT > self.config.low) & (covariance_RT < self.config.high)
        if not self.config.exclude_clipped:
            return candidates_RT
        ratio_RT = (batch.statistics[LOGP] - batch.statistics[OLD_LOGP]).exp()
        cut_RT = torch.where(
            batch.advantage_RT > 0,
            ratio_RT > 1 + self.config.clip_high,
            (ratio_RT < 1 - self.config.clip_low) & (batch.advantage_RT < 0),
        )
        return candidates_RT & ~cut_RT
