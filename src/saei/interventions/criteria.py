"""Criteria: what the attack raises."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Criterion
from saei.need import Need
from saei.policy import Scores
from saei.policy.statistics.distributions import TopKEntropy as TopKEntropyStatistic

ENTROPY = Need("entropy", grad=True)
KL_FROM_CLEAN = Need("kl", view="clean", grad=True)


class Entropy(Criterion):
    """Token entropy of the clean responses: SaEI's entropy-guided adversarial objective (arXiv 2512.10414)."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["entropy"] = "entropy"

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The entropies under the moved view."""
        return frozenset({ENTROPY})

    def per_token(self, scores: Scores) -> Tensor:
        """Return the entropies."""
        return scores.statistics[ENTROPY]


class TopKEntropy(Criterion):
    """Entropy over the k likeliest tokens alone: without the tail of the vocabulary. Source: original.

    As a bonus in the policy's loss, entropies of a part of the vocabulary are AEnt's (arXiv 2509.03493) and SIREN's.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            k: How many tokens of the vocabulary, whose probabilities are made to sum to 1; the default is ours.
        """

        type: Literal["top-k-entropy"] = "top-k-entropy"
        k: int = Field(default=20, ge=2, le=1_000_000)

    config: Config

    @property
    def _need(self) -> Need:
        return Need(TopKEntropyStatistic.Config(k=self.config.k), grad=True)

    @property
    def needs(self) -> frozenset[Need]:
        """The entropies under the moved view."""
        return frozenset({self._need})

    def per_token(self, scores: Scores) -> Tensor:
        """Return the entropies."""
        return scores.statistics[self._need]


class KL(Criterion):
    """How far the moved view is from the clean one: ``KL(moved‖clean)`` at each token, over the whole vocabulary.

    As a target of adversarial training this is TRADES' divergence (arXiv 1901.08573) and VILLA's (arXiv 2006.06195). At
    the clean view it is at its minimum and its gradient is 0, so an attack needs a random start.
    """

    least_at_clean = True

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["kl"] = "kl"

    config: Config

    @property
    def needs(self) -> frozenset[Need]:
        """The divergence from the clean view."""
        return frozenset({KL_FROM_CLEAN})

    def per_token(self, scores: Scores) -> Tensor:
        """Return the divergences."""
        return scores.statistics[KL_FROM_CLEAN]


class NLL(Criterion):
    """Negative log-probability of the clean responses' tokens: a control without entropy. Source: original."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["nll"] = "nll"

    config: Config

    def per_token(self, scores: Scores) -> Tensor:
        """Return the negative log-probabilities."""
        return -scores.logp_NT


class RandomDirection(Criterion):
    """``Σ w · log p`` over the selected tokens, w standard normal: the control that decides. Source: original.

    Its gradient goes through the network as that of the entropy does, from the same tokens and as far, but towards
    nothing in particular. Where it opens as much as ``entropy``, entropy is not the reason. Each attack draws its own w
    and keeps it for all of its steps. A sum, not a mean: the weights have no scale of their own.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["random-direction"] = "random-direction"

    config: Config

    def draw_weights(self, mask_NT: Tensor, generator: torch.Generator) -> Tensor:
        """Return one standard normal number per token."""
        return torch.randn(mask_NT.shape, generator=generator).to(mask_NT.device)

    def per_token(self, scores: Scores) -> Tensor:
        """Return the log-probabilities."""
        return scores.logp_NT

    def value(self, scores: Scores, selected_NT: Tensor, *, pooled: bool, weight_NT: Tensor | None = None) -> Tensor:
        """Return the sum over all selected tokens, pooled or not."""
        assert weight_NT is not None, "a random direction is drawn before it is followed"
        return (self.per_token(scores) * weight_NT * selected_NT).sum()
