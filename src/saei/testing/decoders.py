"""The contract of decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from saei.config.strategy import Strategy, StrategyConfig
from saei.policy import Policy
from saei.policy.decoder import Completion, Decoder, DrawRequest
from saei.testing.rules import config_of, random_state_untouched, require
from saei.types import Response, View

TOLERANCE = 1e-3
"""Nats by which a token's log-probability may differ between drawing and scoring, in float32 on both sides."""


@torch.no_grad()
def check_decoder(subject: Strategy | StrategyConfig, policy: Policy, views: Sequence[View]) -> None:
    """Hold a decoder to its contract.

    Args:
        subject: The decoder or its config.
        policy: A small policy in float32, to draw from.
        views: Three or more of its clean views.

    Raises:
        AssertionError: Naming the rule that is broken.
    """
    config = config_of(subject)
    decoder, name = config.build(), config.type
    require(isinstance(decoder, Decoder), name, "the config of a decoder builds a Decoder")
    decoder.sync(policy)
    request = _request(policy, views)
    with random_state_untouched(name):
        drawn = decoder.draw(policy, request)
    require(
        [len(completions) for completions in drawn] == list(request.counts), name, "each view gets as many as are asked"
    )
    for view, completions in zip(views, drawn, strict=True):
        _check_completions(name, policy, view, completions)
    again = decoder.draw(policy, _request(policy, views))
    require(_ids(again) == _ids(drawn), name, "the same sources of randomness give the same completions")
    other = decoder.draw(policy, _request(policy, views, seed=1))
    require(_ids(other) != _ids(drawn), name, "other sources of randomness give others")
    if decoder.takes_prefixes:
        _check_prefixes(name, decoder, policy, views)


def _request(policy: Policy, views: Sequence[View], seed: int = 0) -> DrawRequest:
    counts = [2, 0, *(3 for _ in views[2:])]
    sources = [torch.Generator().manual_seed(seed + 100 * number) for number in range(len(views))]
    return DrawRequest(views, counts, policy.sampling, policy.distribution, sources)


def _ids(drawn: Sequence[Sequence[Completion]]) -> list[list[list[int]]]:
    return [[list(completion.ids) for completion in completions] for completions in drawn]


def _check_completions(name: str, policy: Policy, view: View, completions: Sequence[Completion]) -> None:
    ends, limit = set(policy.eos_ids.tolist()), policy.sampling.max_new_tokens
    banned_V = policy.distribution.banned_V
    for completion in completions:
        ids = list(completion.ids)
        require(not ends.intersection(ids[:-1]), name, "nothing follows an end-of-sequence token")
        require(len(ids) == limit or (0 < len(ids) < limit and ids[-1] in ends), name, "only an end or the limit ends")
        allowed = banned_V is None or not bool(banned_V[torch.tensor(ids, device=banned_V.device)].any())
        require(allowed, name, "banned ids are never drawn")
        lengths = {len(ids), len(completion.logp_T), len(ids if completion.entropy_T is None else completion.entropy_T)}
        require(len(lengths) == 1, name, "there is one log-probability and, if any, one entropy per token")
    responses = [_response(policy, completion) for completion in completions]
    if not responses:
        return
    (scores,) = policy.score([view], [responses])
    for n, (response, completion) in enumerate(zip(responses, completions, strict=True)):
        gap_T = (scores.logp_NT[n, : len(response)] - response.behaviour_logp_T).nan_to_num().abs()
        require(float(gap_T.max()) < TOLERANCE, name, "log-probabilities are the policy's own, or NaN")
        if completion.entropy_T is not None:
            gap_T = (scores.entropies()[n, : len(response)] - response.entropy_T).abs()
            require(float(gap_T.max()) < TOLERANCE, name, "entropies are the policy's own")


def _response(policy: Policy, completion: Completion) -> Response:
    ids_T = torch.tensor(completion.ids, dtype=torch.long, device=policy.device)
    logp_T = completion.logp_T.to(policy.device)
    entropy_T = torch.zeros_like(logp_T) if completion.entropy_T is None else completion.entropy_T.to(policy.device)
    return Response(ids_T, "", logp_T, entropy_T, truncated=False)


def _check_prefixes(name: str, decoder: Decoder, policy: Policy, views: Sequence[View]) -> None:
    drawn = decoder.draw(policy, _request(policy, views))
    responses = [[_response(policy, completion) for completion in completions] for completions in drawn]
    prefixes = [[response.prefix(n) for n, response in enumerate(of_view)] for of_view in responses]
    continued = decoder.draw(policy, replace(_request(policy, views, seed=1), prefixes=prefixes))
    for given, completions in zip(prefixes, continued, strict=True):
        for prefix, completion in zip(given, completions, strict=True):
            begins = list(completion.ids[: len(prefix)]) == prefix.ids_T.tolist()
            require(begins, name, "a completion begins with its prefix")
            require(len(completion.ids) <= policy.sampling.max_new_tokens, name, "a prefix counts towards the limit")
