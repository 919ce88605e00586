"""Sampling: from a decoder's completions to responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from saei.config.sections import SamplingConfig
from saei.errors import ConfigError
from saei.policy.decoder import Completion, DrawRequest, no_offsets
from saei.policy.module import Distribution
from saei.policy.scoring import score_with
from saei.types import Response, ResponsePrefix, View

if TYPE_CHECKING:
    from saei.policy.policy import Policy

Prefixes: TypeAlias = Sequence[Sequence[ResponsePrefix | None]]
"""For each view and each of its responses the tokens that it begins with, None for a response without."""


@torch.no_grad()
def sample(
    policy: Policy,
    views: Sequence[View],
    counts: Sequence[int],
    *,
    generators: Sequence[torch.Generator],
    sampling: SamplingConfig | None = None,
    prefixes: Prefixes | None = None,
    temperature: float | None = None,
) -> list[list[Response]]:
    """Draw responses to views; see ``Policy.sample``."""
    assert sampling is None or temperature is None, "an evaluation's sampling has a temperature of its own"
    evaluated = sampling is not None
    if temperature is not None:
        sampling = policy.sampling.model_copy(update={"temperature": temperature})
    distribution = policy.distribution if sampling is None else policy.distribution_of(sampling)
    request = DrawRequest(views, counts, sampling or policy.sampling, distribution, generators, prefixes)
    if prefixes is not None:
        _check_prefixes(policy, request, prefixes)
    if not policy.decoder.takes_offsets and any(view.offset_Qd is not None for view in views):
        raise no_offsets(type(policy.decoder).__name__)
    policy.sync_decoder()
    completions = policy.decoder.draw(policy, request)
    responses = _responses(policy, completions, prefixes, temperature)
    if all(completion.entropy_T is not None for drawn in completions for completion in drawn):
        return responses
    return _scored(policy, request, responses, compared=not evaluated)


def drawn_tokens(responses: Sequence[Response], device: torch.device) -> Tensor:
    """Return the bool mask ``[N, T]`` of the tokens that were drawn: not padding, and not given to a response."""
    lengths_N = torch.tensor([len(response) for response in responses], device=device)
    forced_N = torch.tensor([response.forced for response in responses], device=device)
    places_T = torch.arange(int(lengths_N.max()), device=device)
    return (places_T >= forced_N[:, None]) & (places_T < lengths_N[:, None])


def _responses(
    policy: Policy,
    completions: Sequence[Sequence[Completion]],
    prefixes: Prefixes | None,
    temperature: float | None,
) -> list[list[Response]]:
    """Make responses of completions; the values of a prefix replace the decoder's for the same tokens."""
    device, ends = policy.device, set(policy.eos_ids.tolist())
    flat = [completion.ids for drawn in completions for completion in drawn]
    texts = iter(policy.tokenizer.batch_decode(flat, skip_special_tokens=True) if flat else ())

    def response(completion: Completion, prefix: ResponsePrefix | None) -> Response:
        logp_T = completion.logp_T.to(device)
        entropy_T = torch.zeros_like(logp_T) if completion.entropy_T is None else completion.entropy_T.to(device)
        if prefix is not None:
            logp_T = _with_given(logp_T, prefix.behaviour_logp_T)
            entropy_T = _with_given(entropy_T, prefix.entropy_T)
        return Response(
            ids_T=torch.tensor(completion.ids, dtype=torch.long, device=device),
            text=next(texts),
            behaviour_logp_T=logp_T,
            entropy_T=entropy_T,
            truncated=not completion.ids or completion.ids[-1] not in ends,
            parent=None if prefix is None else prefix.parent,
            forced=0 if prefix is None else len(prefix),
            temperature=temperature,
        )

    return [
        [
            response(completion, None if prefixes is None else prefixes[number][place])
            for place, completion in enumerate(drawn)
        ]
        for number, drawn in enumerate(completions)
    ]


def _with_given(drawn_T: Tensor, given_K: Tensor) -> Tensor:
    """Return drawn values with the first ones replaced by given ones."""
    return torch.cat([given_K.to(drawn_T), drawn_T[len(given_K) :]]) if len(given_K) else drawn_T


def _scored(
    policy: Policy, request: DrawRequest, responses: list[list[Response]], *, compared: bool
) -> list[list[Response]]:
    """Add what the decoder did not give: entropies, and log-probabilities where it had none."""
    scored = score_with(policy, request.views, responses, {}, distribution=request.distribution)
    scores = [of_view for of_view, _ in scored]
    if compared and policy.on_decoded is not None:
        policy.on_decoded(responses, scores)

    def completed(response: Response, logp_T: Tensor, entropy_T: Tensor) -> Response:
        drawn_T = response.behaviour_logp_T
        behaviour_logp_T = drawn_T.where(~drawn_T.isnan(), logp_T[: len(response)])
        entropy_T = _with_given(entropy_T[: len(response)], response.entropy_T[: response.forced])
        return replace(response, behaviour_logp_T=behaviour_logp_T, entropy_T=entropy_T)

    return [
        [completed(*row) for row in zip(drawn, of_view.logp_NT, of_view.entropies(), strict=True)]
        for drawn, of_view in zip(responses, scores, strict=True)
    ]


def _check_prefixes(policy: Policy, request: DrawRequest, prefixes: Prefixes) -> None:
    """Refuse prefixes that no response can begin with.

    Raises:
        ConfigError: If the decoder takes none, there is not one for each response, or one is no response's beginning.
    """
    if not policy.decoder.takes_prefixes:
        raise ConfigError(
            "Given tokens are continued by a decoder that can do so.",
            reason=f"{type(policy.decoder).__name__} cannot.",
            remedy="Use the decoder `native`.",
        )
    if [len(given) for given in prefixes] != list(request.counts):
        raise ConfigError(
            "Prefixes are given for each view and each of its responses.",
            reason=f"There are {[len(given) for given in prefixes]} for {list(request.counts)} responses.",
            remedy="Give None for a response without a prefix.",
        )
    limit = request.sampling.max_new_tokens
    for prefix in (prefix for given in prefixes for prefix in given if prefix is not None):
        if len(prefix) > limit:
            raise ConfigError(
                "A prefix counts towards the longest response.",
                reason=f"One has {len(prefix)} tokens, sampling.max_new_tokens is {limit}.",
                remedy="Cut the prefix, or raise sampling.max_new_tokens.",
            )
        if bool(torch.isin(prefix.ids_T[:-1], policy.eos_ids.to(prefix.ids_T.device)).any()):
            raise ConfigError(
                "Nothing follows the end of a response.",
                reason="A prefix has an end-of-sequence token before its last.",
                remedy="Cut the prefix there.",
            )
        never_drawn = _never_drawn(prefix.ids_T, request.distribution)
        if never_drawn:
            raise ConfigError(
                "A response begins with tokens that can be drawn.",
                reason=f"A prefix has the ids {never_drawn}, which are outside the vocabulary or never drawn, as an "
                "image token is.",
                remedy="Encode the prefix with the policy's tokenizer, without special tokens.",
            )


def _never_drawn(ids_T: Tensor, distribution: Distribution) -> list[int]:
    """Return those ids, each once, that the distribution does not have or has banned."""
    banned_V = distribution.banned_V
    assert banned_V is not None, "a policy's distribution has banned ids"
    ids_T = ids_T.to(banned_V.device)
    outside_T = (ids_T < 0) | (ids_T >= len(banned_V))
    return sorted(set(ids_T[outside_T | banned_V[ids_T.masked_fill(outside_T, 0)]].tolist()))
