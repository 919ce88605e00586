"""Token statistics of a group's responses, with what the selector needs filled in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.entropy.selectors.base import TokenStats
from saei.errors import ConfigError, nearest
from saei.policy import Policy
from saei.types import Response, View


def check_needs(needs: frozenset[str]) -> None:
    """Refuse a need that nothing fills.

    Raises:
        ConfigError: Naming the need and the known ones.
    """
    for need in needs - _FILLERS.keys():
        raise ConfigError(f"Nothing fills the selector's need '{need}'.", remedy=nearest(need, _FILLERS))


def token_stats(policy: Policy, view: View, responses: Sequence[Response], needs: frozenset[str]) -> TokenStats:
    """Return the statistics of the sampling pass; nothing is computed again.

    Raises:
        ConfigError: If a need is unknown.
    """
    lengths = torch.tensor([len(response) for response in responses], device=policy.device)
    valid_NT = torch.arange(int(lengths.max()), device=policy.device)[None] < lengths[:, None]
    ids_NT = pad_sequence([response.ids_T for response in responses], batch_first=True)
    check_needs(needs)
    return TokenStats(
        entropy_NT=pad_sequence([response.entropy_T for response in responses], batch_first=True),
        logp_NT=pad_sequence([response.behaviour_logp_T for response in responses], batch_first=True),
        ids_NT=ids_NT,
        valid_NT=valid_NT,
        extra={need: _FILLERS[need](policy, view, responses) for need in needs},
    )


def _eos(policy: Policy, view: View, responses: Sequence[Response]) -> Tensor:
    return pad_sequence([torch.isin(r.ids_T, policy.eos_ids) for r in responses], batch_first=True)


def _template(policy: Policy, view: View, responses: Sequence[Response]) -> Tensor:
    """Mark the tokens that overlap one of the prompt template's literals in the decoded text."""
    masks = []
    for response in responses:
        ids = response.ids_T.tolist()
        prefixes = policy.tokenizer.batch_decode([ids[:end] for end in range(len(ids) + 1)], skip_special_tokens=True)
        ends = [len(prefix) for prefix in prefixes]
        literal = _literal_characters(prefixes[-1], policy.template.literals)
        marked = [any(literal[a:b]) for a, b in itertools.pairwise(ends)]
        masks.append(torch.tensor(marked, dtype=torch.bool, device=policy.device))
    return pad_sequence(masks, batch_first=True)


def _literal_characters(text: str, literals: Sequence[str]) -> list[bool]:
    inside = [False] * len(text)
    for literal in literals:
        start = text.find(literal)
        while start >= 0:
            inside[start : start + len(literal)] = [True] * len(literal)
            start = text.find(literal, start + len(literal))
    return inside


_FILLERS: Mapping[str, Callable[[Policy, View, Sequence[Response]], Tensor]] = {"eos": _eos, "template": _template}
