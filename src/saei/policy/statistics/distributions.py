"""Statistics of the distributions at the tokens."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.entropy.token_entropy import entropy_of
from saei.entropy.token_kl import token_kl
from saei.entropy.token_states import TokenStates
from saei.need import Need
from saei.objectives.kl import k3
from saei.policy.module import Distribution
from saei.policy.statistics.base import DerivedStatistic, DistributionStatistic, DivergenceStatistic


class LogProbability(DistributionStatistic):
    """Log-probability of the token, in nats; every scoring pass has it."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["logp"] = "logp"

    config: Config

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return the values at the tokens."""
        return logp_mV.gather(-1, ids_m[:, None])[:, 0]


class Entropy(DistributionStatistic):
    """Entropy over the vocabulary, in nats; every scoring pass can have it, fused with the head."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["entropy"] = "entropy"

    config: Config

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return the entropies."""
        return entropy_of(logp_mV, logp_mV.exp())


class KL(DivergenceStatistic):
    """``KL(p‖q)`` over the whole vocabulary, in nats, fused with the heads; see ``saei.entropy.token_kl``."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["kl"] = "kl"

    config: Config

    def of_two(self, logp_mV: Tensor, logq_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return the textbook's form, which the faster way is tested against."""
        return (logp_mV.exp() * (logp_mV - logq_mV)).sum(-1)

    def compute(self, p: TokenStates, q: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return the divergences."""
        return token_kl(p, q, temperature=distribution.temperature, banned_V=distribution.banned_V)


class SampledKL(DerivedStatistic):
    """Schulman's k3 estimate of ``KL(p‖q)`` at the sampled token, in nats: unbiased where the tokens were drawn from p.

    Source: http://joschu.net/blog/kl-approx.html.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["kl-k3"] = "kl-k3"

    config: Config

    def parts_of(self, need: Need) -> tuple[Need, ...]:
        """Return the two log-probabilities."""
        return Need("logp", grad=need.grad), Need("logp", view=need.view, policy=need.policy)

    def combine(self, *values_T: Tensor) -> Tensor:
        """Return the estimates."""
        logp_T, logq_T = values_T
        return k3(logq_T - logp_T)
