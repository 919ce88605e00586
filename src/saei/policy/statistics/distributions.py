"""Statistics of the distributions at the tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.entropy.token_entropy import entropy_of
from saei.entropy.token_kl import token_kl
from saei.entropy.token_states import TokenStates, fused_per_token
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


class TopKEntropy(DistributionStatistic):
    """Entropy over the k likeliest tokens of the vocabulary, whose probabilities are made to sum to 1, in nats.

    The long tail of a large vocabulary, whose tokens are nonsense one by one, adds nothing. Its relatives are AEnt's
    entropy over the likeliest share of the vocabulary (arXiv 2509.03493) and SIREN's over the top-p nucleus, both terms
    of the policy's loss. It has the temperature of ``entropy``.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            k: How many tokens, the whole vocabulary if it has fewer; the default is ours.
        """

        type: Literal["top-k-entropy"] = "top-k-entropy"
        k: int = Field(default=20, ge=2, le=1_000_000)

    config: Config

    def of_distribution(self, logp_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return the entropies."""
        likeliest_mk = logp_mV.topk(min(self.config.k, logp_mV.shape[-1]), dim=-1).values.log_softmax(-1)
        return entropy_of(likeliest_mk, likeliest_mk.exp())

    def compute(self, states: TokenStates, ids_M: Tensor, distribution: Distribution) -> Tensor:
        """Return the entropies, their gradient fused with the head."""
        temperature = distribution.entropy_temperature or distribution.temperature
        return fused_per_token(
            self.of_distribution, states, ids_M=ids_M, temperature=temperature, banned_V=distribution.banned_V
        )


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


class SymmetricKL(DivergenceStatistic):
    """The mean of ``KL(p‖q)`` and ``KL(q‖p)`` over the whole vocabulary, in nats."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["kl-symmetric"] = "kl-symmetric"

    config: Config

    def of_two(self, logp_mV: Tensor, logq_mV: Tensor, ids_m: Tensor) -> Tensor:
        """Return the divergences."""
        return ((logp_mV.exp() - logq_mV.exp()) * (logp_mV - logq_mV)).sum(-1) / 2


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
        other = Need("logp", view=need.view, policy=need.policy, grad=need.grad == "both")
        return Need("logp", grad=bool(need.grad)), other

    def combine(self, *values_T: Tensor) -> Tensor:
        """Return the estimates."""
        logp_T, logq_T = values_T
        return k3(logq_T - logp_T)
