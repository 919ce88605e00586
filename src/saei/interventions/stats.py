"""Token statistics of a group's responses, as selectors see them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch.nn.utils.rnn import pad_sequence

from saei.entropy.selectors.base import TokenStats
from saei.need import Need
from saei.policy import Policy
from saei.policy.sampling import drawn_tokens
from saei.types import Response, View


def token_stats(policy: Policy, view: View, responses: Sequence[Response], needs: Collection[Need]) -> TokenStats:
    """Return the statistics of the sampling pass, and what is needed besides.

    Args:
        policy: The policy that drew the responses.
        view: The clean view that they were drawn from.
        responses: The responses, one at least.
        needs: What is needed besides.
    """
    (statistics,) = policy.statistics(needs, [view], [responses], drawn=True)
    return TokenStats(
        entropy_NT=pad_sequence([response.entropy_T for response in responses], batch_first=True),
        logp_NT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        ids_NT=pad_sequence([response.ids_T for response in responses], batch_first=True),
        valid_NT=drawn_tokens(responses, policy.device),
        statistics=statistics,
    )
