"""Criteria: what the attack raises."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Criterion
from saei.policy import Scores


class Entropy(Criterion):
    """Token entropy of the clean responses: SaEI's entropy-guided adversarial objective (arXiv 2512.10414)."""

    with_entropy: ClassVar[bool] = True

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["entropy"] = "entropy"

    config: Config

    def per_token(self, scores: Scores) -> Tensor:
        """Return the entropies."""
        assert scores.entropy_NT is not None
        return scores.entropy_NT


class NLL(Criterion):
    """Negative log-probability of the clean responses' tokens: a control that knows no entropy. Source: original."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["nll"] = "nll"

    config: Config

    def per_token(self, scores: Scores) -> Tensor:
        """Return the negative log-probabilities."""
        return -scores.logp_NT
