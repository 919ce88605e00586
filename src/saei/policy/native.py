"""The policy's own decoder: each view's prompt is computed once, and the responses of all views decode together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.config.strategy import StrategyConfig
from saei.policy.cache import make_room
from saei.policy.decoder import Completion, Decoder, DrawRequest
from saei.policy.decoding import Draw, decode, uniforms
from saei.policy.module import NextToken
from saei.policy.passes import passes
from saei.policy.rows import masks, position_argument, prompt_arguments, prompt_row, response_row, stack

if TYPE_CHECKING:
    from saei.policy.policy import Policy


class Native(Decoder):
    """Draws by the policy's own module; needs no second copy of the weights. Source: original."""

    takes_prefixes: ClassVar[bool] = True
    takes_offsets: ClassVar[bool] = True

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["native"] = "native"

    config: Config

    def draw(self, policy: Policy, request: DrawRequest) -> list[list[Completion]]:
        """Draw responses, with entropies of the request's distribution."""
        completions: list[list[Completion]] = [[] for _ in request.views]
        wanted = [number for number, count in enumerate(request.counts) if count > 0]
        for of_pass in passes([request.views[number] for number in wanted]):
            numbers = [wanted[place] for place in of_pass]
            draw = _draw(policy, request, numbers)
            # One response per row, copied, so that it does not keep the tensors of all rows alive.
            ids, lengths = draw.ids_RT.tolist(), draw.length_R.tolist()
            rows = iter(
                Completion(row[:length], draw.logp_RT[place, :length].clone(), draw.entropy_RT[place, :length].clone())
                for place, (row, length) in enumerate(zip(ids, lengths, strict=True))
            )
            for number in numbers:
                completions[number] = [next(rows) for _ in range(request.counts[number])]
        return completions


def _draw(policy: Policy, request: DrawRequest, numbers: Sequence[int]) -> Draw:
    """Draw the responses to the views of some numbers, one row each, in one pass."""
    counts = [request.counts[number] for number in numbers]
    views = [request.views[number] for number in numbers]
    expand_R = torch.repeat_interleave(torch.tensor(counts))
    if not policy.shared_prefix:
        views = [views[number] for number in expand_R.tolist()]
    # Prompts are padded on the left, so that every row's last column predicts its first response token.
    rows = stack([prompt_row(view) for view in views], left=True)
    pixels = policy.pixels.inputs([view.canvases for view in views])
    first: NextToken = policy.module({**prompt_arguments(rows), "use_cache": True, **pixels})
    width = rows.ids_BS.shape[1]
    tokens = stack([response_row(view, view.prompt_ids_P[:1]) for view in views])  # a placeholder of each token to come
    if policy.shared_prefix:
        expand_R = expand_R.to(policy.device)
        rows, tokens = rows.select(expand_R), tokens.select(expand_R)
    make_room(first.cache)
    start_KR = rows.positions_KBS.amax(dim=(0, 2)).expand(rows.positions_KBS.shape[0], -1) + 1

    def step(ids_L: Tensor, rows_L: Tensor, cache: Any) -> NextToken:
        fed = cache.get_seq_length() - width
        result: NextToken = policy.module(
            {
                "input_ids": ids_L[:, None],
                "attention_mask": pad(rows.valid_BS[rows_L], (0, fed + 1), value=True),
                "position_ids": position_argument((start_KR[:, rows_L] + fed)[..., None]),
                **{name: mask_RS[rows_L] for name, mask_RS in masks(tokens).items()},
                "past_key_values": cache,
                "use_cache": True,
            }
        )
        return result

    return decode(
        first.logits_BV,
        first.cache,
        step,
        distribution=request.distribution,
        sampling=request.sampling,
        eos_ids=policy.eos_ids,
        uniform=uniforms([request.generators[number] for number in numbers], counts, request.sampling.max_new_tokens),
        drop_ended=policy.shared_prefix,  # a cache that cannot be shared cannot drop rows either
        forced_RK=_forced(request, numbers, policy.device),
        entry_R=expand_R if policy.shared_prefix else None,
    )


def _forced(request: DrawRequest, numbers: Sequence[int], device: torch.device) -> Tensor | None:
    """Return the tokens that the rows of some views must begin with, -1 after them; None if no row has any."""
    if request.prefixes is None:
        return None
    prefixes = [prefix for number in numbers for prefix in request.prefixes[number]]
    longest = max((len(prefix) for prefix in prefixes if prefix is not None), default=0)
    if not longest:
        return None
    forced_RK = torch.full((len(prefixes), longest), -1, dtype=torch.long)
    for row_K, prefix in zip(forced_RK, prefixes, strict=True):
        if prefix is not None:
            row_K[: len(prefix)] = prefix.ids_T.cpu()
    return forced_RK.to(device)
