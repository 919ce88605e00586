"""Criteria: what the attack raises."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Criterion
from saei.need import Need
from saei.policy import Scores

ENTROPY = Need("entropy", grad=True)


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


class NLL(Criterion):
    """Negative log-probability of the clean responses' tokens: a control without entropy. Source: original."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["nll"] = "nll"

    config: Config

    def per_token(self, scores: Scores) -> Tensor:
        """Return the negative log-probabilities."""
        return -scores.logp_NT
