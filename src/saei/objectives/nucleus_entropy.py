"""SIREN: the entropy of the nucleus at the most uncertain tokens, held at its first value or paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.registry import load
from saei.config.strategy import Frac, StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term
from saei.objectives.batch import UpdateBatch


class NucleusEntropy(Term):
    """``coefficient * (H - H₀)²``, H the mean entropy of the nucleus at each response's most uncertain tokens, in nats.

    A token counts if its nucleus entropy is above the ``quantile`` of its response's, interpolated between two of them;
    H is the mean over the update batch's responses of the mean over the tokens that count, whatever aggregation the
    objective has, and a response without such a token is left out. H₀ is the H of the first optimiser step of the run:
    with one update per batch that of the first step's responses, as in the paper. The square is that of the whole
    batch's difference, where the authors square each micro-batch's own. It costs a pass without gradient over the
    update batch, since H has to be known before its gradient is taken.

    With ``anchored: false`` it is the plain bonus ``-coefficient * H`` over the same tokens, the paper's ablation, and
    costs no further pass; a response without such a token then counts as 0 in the mean.

    Metrics: ``mean``, the nucleus entropy of the tokens that count; ``anchor``, H₀; ``touched``, the share of the
    tokens that count.

    Source: SIREN (https://arxiv.org/abs/2509.25133) and its code.
    """

    class Config(StrategyConfig):
        """Fields of SIREN's regulariser.

        Attributes:
            coefficient: Weight of the squared difference, or of the bonus.
            p: Share of the probability that a nucleus has.
            k: Most tokens of a nucleus.
            crossing: Whether the token with which the share is reached belongs to the nucleus; not in the authors'
                code.
            quantile: Of the nucleus entropies of a response; tokens above it count.
            anchored: Whether H is held at its first value; if not, it is raised.
        """

        type: Literal["nucleus-entropy"] = "nucleus-entropy"
        coefficient: float = Field(default=5e-3, ge=0.0, le=1e6)
        p: Frac = Field(default=Fraction(4, 5), gt=0, le=1)
        k: int = Field(default=10_000, ge=1, le=1_000_000)
        crossing: bool = True
        quantile: Frac = Field(default=Fraction(4, 5), ge=0, lt=1)
        anchored: bool = True

        @property
        def steers_entropy(self) -> bool:
            """Whether the entropy is held at its first value."""
            return self.anchored

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.anchor: float | None = None

    @cached_property
    def entropy(self) -> Need:
        """The current policy's nucleus entropy, with gradient."""
        fields = {name: getattr(self.config, name) for name in ("p", "k", "crossing")}
        return Need(load("statistic", "nucleus-entropy").Config(**fields), grad=True)

    @property
    def needs(self) -> frozenset[Need]:
        """The nucleus entropy."""
        return frozenset({self.entropy})

    @property
    def batch_needs(self) -> frozenset[Need]:
        """The same of the whole update batch."""
        return frozenset({replace(self.entropy, grad=False)}) if self.config.anchored else frozenset()

    @property
    def prepares(self) -> bool:
        """Whether H has to be known before the loss."""
        return self.config.anchored

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return H, the number of responses that it is the mean of, and the tokens that count; note the first H."""
        if not self.config.anchored:
            return {}
        entropy_RT = batch.statistics[replace(self.entropy, grad=False)]
        counts_RT = self._counting(entropy_RT, batch.mask_RT)
        some_R = counts_RT.any(dim=1)
        mean = _means(entropy_RT, counts_RT)[some_R].mean() if bool(some_R.any()) else torch.zeros(())
        if self.anchor is None and bool(some_R.any()):
            self.anchor = float(mean)
        return {"mean": mean, "responses": some_R.sum().clamp(min=1), "counts": counts_RT}

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return this micro-batch's share of the squared difference or of the bonus."""
        coefficient, prepared = self.config.coefficient, inputs.prepared
        entropy_RT = torch.where(inputs.mask_RT, inputs.statistics[self.entropy], 0.0)
        if not self.config.anchored:
            counts_RT = self._counting(entropy_RT.detach(), inputs.mask_RT)
            value = -coefficient * _means(entropy_RT, counts_RT).sum() / inputs.n_responses
            return Loss(value, self._metrics(entropy_RT, counts_RT, inputs.mask_RT))
        counts_RT = prepared["counts"] & inputs.mask_RT
        mean_R = _means(entropy_RT, counts_RT)
        difference = prepared["mean"] - (prepared["mean"] if self.anchor is None else self.anchor)
        # The gradient of a share of H times 2 (H - H₀), and the same share of the square as the value.
        slope_R = 2 * difference * (mean_R - mean_R.detach())
        value = (slope_R + difference**2 * counts_RT.any(dim=1)).sum() / prepared["responses"]
        return Loss(coefficient * value, self._metrics(entropy_RT, counts_RT, inputs.mask_RT))

    def _counting(self, entropy_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """Return which tokens are above their response's quantile."""
        own_RT = torch.where(mask_RT, entropy_RT, torch.nan)
        bound_R1 = own_RT.nanquantile(float(self.config.quantile), dim=1, keepdim=True)
        return mask_RT & (own_RT > bound_R1)

    def _metrics(self, entropy_RT: Tensor, counts_RT: Tensor, mask_RT: Tensor) -> dict[str, Tensor]:
        metrics = {"mean": per_response(entropy_RT.detach(), counts_RT), **touched(counts_RT, mask_RT)}
        if self.anchor is not None:
            metrics["anchor"] = torch.full_like(metrics["mean"], self.anchor)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the first H."""
        return {"anchor": self.anchor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.anchor = None if state["anchor"] is None else float(state["anchor"])


def _means(entropy_RT: Tensor, counts_RT: Tensor) -> Tensor:
    """Return each response's mean over the tokens that count, 0 without one."""
    return (entropy_RT * counts_RT).sum(dim=1) / counts_RT.sum(dim=1).clamp(min=1)
