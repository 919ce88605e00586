"""How far a policy at one temperature is from the same policy at another.

M tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saei.entropy.token_kl import token_kl
from saei.entropy.token_states import TokenStates
from saei.interventions.context import Total
from saei.policy import Policy
from saei.policy.scoring import Extra, score_with
from saei.types import Response, View


class TemperatureDivergence:
    """``KL(p_T‖p)`` between the policy at temperature T and the policy as it samples, as a function of T.

    It is the mean over the tokens of some responses, in nats, over the whole vocabulary. The hidden states that predict
    the tokens are computed once, in one pass; each temperature costs two products with the output layer.

    Args:
        policy: The policy.
        views: Views that this process has, perhaps none.
        responses: For each view its responses.
        total: Adds up numbers of all processes, which have to ask for the same temperatures.
    """

    def __init__(
        self, policy: Policy, views: Sequence[View], responses: Sequence[Sequence[Response]], total: Total
    ) -> None:
        self._policy, self._total = policy, total
        self._hidden_Md = _hidden_states(policy, views, responses)
        self._n_tokens = total(len(self._hidden_Md))

    @property
    def own_temperature(self) -> float:
        """The temperature that the policy samples at, where the divergence is 0."""
        return self._policy.distribution.temperature

    @torch.no_grad()
    def at(self, temperature: float) -> float:
        """Return the divergence at a temperature; 0 if there is no token."""
        head, own = self._policy.head, self._policy.distribution
        factor = own.temperature / temperature  # logits times this, at the own temperature, are those at the other
        tempered = TokenStates(self._hidden_Md, lambda hidden_md: head(hidden_md).float() * factor, hidden_only=True)
        plain = TokenStates(self._hidden_Md, head, hidden_only=True)
        kl_M = token_kl(tempered, plain, temperature=own.temperature, banned_V=own.banned_V)
        return self._total(float(kl_M.double().sum())) / max(1, self._n_tokens)


@torch.no_grad()
def _hidden_states(policy: Policy, views: Sequence[View], responses: Sequence[Sequence[Response]]) -> Tensor:
    """Return the hidden states ``[M, d]`` that predict the tokens of all responses."""
    if not any(len(response) for drawn in responses for response in drawn):
        return torch.zeros(0, 1, device=policy.device)
    extra = Extra(lambda states, ids_M, distribution, constant_M: states.hidden_Md)
    scored = score_with(policy, views, responses, {"states": extra}, with_entropy=False)
    return torch.cat([hidden_Td for _, extras in scored for hidden_Td in extras["states"] if len(hidden_Td)])
