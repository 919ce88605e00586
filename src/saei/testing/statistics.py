"""The contract of statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saei.config.strategy import Strategy, StrategyConfig
from saei.entropy.fused import FLOOR
from saei.need import Need
from saei.policy import Policy
from saei.policy.statistics.base import (
    DerivedStatistic,
    DistributionStatistic,
    DivergenceStatistic,
    Statistic,
    TokenStatistic,
)
from saei.testing.rules import config_of, random_state_untouched, require, require_filled
from saei.types import Response

TOKENS, VOCABULARY = 7, 11
TOLERANCE = 1e-6


def check_statistic(
    subject: Strategy | StrategyConfig, policy: Policy | None = None, responses: Sequence[Response] = ()
) -> None:
    """Hold a statistic to its contract.

    Args:
        subject: The statistic or its config.
        policy: A small policy; only needed for a ``TokenStatistic``.
        responses: Responses of this policy, of several lengths; needed with it.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    statistic, name = config.build(), config.type
    require(isinstance(statistic, Statistic), name, "the config of a statistic builds a Statistic")
    if isinstance(statistic, DistributionStatistic):
        _check_function(name, statistic.of_distribution, sides=1)
    elif isinstance(statistic, DivergenceStatistic):
        _check_function(name, statistic.of_two, sides=2)
    elif isinstance(statistic, DerivedStatistic):
        _check_derived(statistic)
    else:
        kinds = "of tokens, of a distribution, a divergence or derived"
        require(isinstance(statistic, TokenStatistic), name, f"a statistic is one {kinds}")
        assert policy is not None, "A statistic of tokens is checked on a policy's responses: give both."
        _check_tokens(statistic, policy, responses)


def _check_function(name: str, function: Callable[..., Tensor], *, sides: int) -> None:
    """Check a function of log-probabilities: independent rows, finite values and gradients, also with banned ids."""
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(TOKENS, VOCABULARY, generator=generator) for _ in range(sides)]
    ids_m = torch.randint(VOCABULARY - 1, (TOKENS,), generator=generator)
    for banned in (False, True):
        logs = []
        for logits_mV in logits:
            if banned:
                logits_mV = logits_mV.clone()
                logits_mV[:, -1] = FLOOR
            logs.append(logits_mV.log_softmax(-1).requires_grad_())
        before = [log.detach().clone() for log in logs]
        with random_state_untouched(name):
            values_m = function(*logs, ids_m)
        require(all(map(torch.equal, before, logs)), name, "the log-probabilities are left as they were")
        require(values_m.shape == (TOKENS,), name, "there is one value per token")
        require(bool(values_m.isfinite().all()), name, "values are finite, also where ids are banned")
        require(torch.equal(values_m, function(*logs, ids_m)), name, "the same distributions give the same values")
        alone = torch.cat([function(*(log[n : n + 1] for log in logs), ids_m[n : n + 1]) for n in range(TOKENS)])
        require(torch.allclose(values_m, alone, atol=TOLERANCE), name, "a token's value does not depend on the others")
        if values_m.requires_grad:
            gradients = torch.autograd.grad(values_m.sum(), logs, allow_unused=True)
            finite = all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
            require(finite, name, "gradients are finite")


def _check_derived(statistic: DerivedStatistic) -> None:
    name = statistic.name()
    needs = [Need(name, view="clean"), Need(name, policy="reference")]
    for need in needs:
        parts = statistic.parts_of(need)
        require(len(parts) > 0, name, "it is made of something")
        require_filled(parts, name)
        require(name not in {part.statistic for part in parts}, name, "it is not made of itself")
        generator = torch.Generator().manual_seed(0)
        values = [torch.rand(3, 4, generator=generator) for _ in parts]
        with random_state_untouched(name):
            combined = statistic.combine(*values)
        require(combined.shape == (3, 4), name, "there is one value per token")
        rows = torch.stack([statistic.combine(*(value[n] for value in values)) for n in range(3)])
        require(torch.allclose(combined, rows, atol=TOLERANCE), name, "a token's value does not depend on the others")


def _check_tokens(statistic: TokenStatistic, policy: Policy, responses: Sequence[Response]) -> None:
    name = statistic.name()
    with random_state_untouched(name):
        values = statistic.of_tokens(policy, responses)
    fits = [len(values_T) == len(response) for values_T, response in zip(values, responses, strict=True)]
    require(all(fits), name, "each response has one value per token")
    require(not any(values_T.requires_grad for values_T in values), name, "values have no gradient")
    for response, values_T in zip(responses, values, strict=True):
        (alone_T,) = statistic.of_tokens(policy, [response])
        require(torch.equal(values_T, alone_T), name, "a response's values do not depend on the others")
