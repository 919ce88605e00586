"""Decoding: draw all responses of all views together from one cache.

As long as rows of a view have the same tokens so far, they share an entry of the cache: nothing is computed twice. Once
that would save less than half of the work, each row gets an entry of its own, since every branching copies the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from saei.config.sections import SamplingConfig
from saei.entropy.token_entropy import entropy_of, token_entropy
from saei.policy.module import Distribution, NextToken

DecodingStep = Callable[[Tensor, Tensor, Any], NextToken]
"""``step(ids_E, rows_E, cache)``: feed one token to each entry; ``rows_E`` are the numbers of rows that it is for."""


@dataclass(frozen=True, eq=False, slots=True)
class Draw:
    """Sampled tokens of R rows, right-padded; ``length_R`` counts each row's tokens, end-of-sequence included."""

    ids_RT: Tensor
    logp_RT: Tensor
    entropy_RT: Tensor
    length_R: Tensor
    truncated_R: Tensor


def decode(
    first_EV: Tensor,
    cache: Any,
    step: DecodingStep,
    *,
    distribution: Distribution,
    sampling: SamplingConfig,
    eos_ids: Tensor,
    uniform: Callable[[int], Tensor],
    drop_ended: bool = True,
    forced_RK: Tensor | None = None,
    entry_R: Tensor | None = None,
) -> Draw:
    """Sample until every row ended or the length limit is reached.

    There is one uniform number per row and position whether or not the row is still live, so that what one row does
    never changes another's draws. Rows that ended leave the batch once they are a quarter of it.

    Args:
        first_EV: Logits of the first token of each entry.
        cache: The cache, with an entry for each row or, with ``entry_R``, for each view; advanced in place.
        step: Feeds one token per entry.
        distribution: The policy's distribution.
        sampling: Temperature, length limit and, for evaluation only, top-p, top-k and greedy decoding.
        eos_ids: The ids that end a response.
        uniform: From a position to float64 numbers in [0, 1), one per row, on the CPU; see ``uniforms``.
        drop_ended: Whether rows may leave the cache.
        forced_RK: int64 ids that rows begin with, -1 where a token is drawn. A forced token is fed as a drawn one would
            be and counts towards the limit, so what follows is what would follow if it had been drawn. Its
            ``logp_RT`` is that of the distribution here, whatever it was drawn from.
        entry_R: int64, the entry that each row begins from; None for its own.
    """
    device = first_EV.device
    total = first_EV.shape[0] if entry_R is None else len(entry_R)
    limit = sampling.max_new_tokens
    ids_RT = torch.zeros(total, limit, dtype=torch.long, device=device)
    logp_RT = torch.zeros(total, limit, device=device)
    entropy_RT = torch.zeros(total, limit, device=device)
    length_R = torch.full((total,), limit, device=device)
    ended_R = torch.zeros(total, dtype=torch.bool, device=device)
    rows = torch.arange(total, device=device)  # those in the cache
    entries, logits = entry_R, first_EV  # entries: of those rows, None if each has its own
    for position in range(limit):
        # --- Draw a token for each live row; a forced one takes the place of what was drawn.
        uniform_R = uniform(position).to(device)  # of all rows, so that a live one's number is its own
        logp_LV, p_LV, entropy_L = _probabilities(logits, distribution, sampling)
        if entries is not None:
            logp_LV, p_LV, entropy_L = logp_LV[entries], p_LV[entries], entropy_L[entries]
        chosen = p_LV.argmax(-1) if sampling.temperature == 0 else inverse_cdf(p_LV, uniform_R[rows])
        if forced_RK is not None and position < forced_RK.shape[1]:
            forced_L = forced_RK[rows, position]
            chosen = torch.where(forced_L >= 0, forced_L, chosen)

        # --- Note it. `rows` are the numbers of the rows that are still in the cache.
        ids_RT[rows, position] = chosen
        logp_RT[rows, position] = logp_LV.gather(-1, chosen[:, None])[:, 0]
        entropy_RT[rows, position] = entropy_L
        ending = torch.isin(chosen, eos_ids) & ~ended_R[rows]
        length_R[rows[ending]] = position + 1
        ended_R[rows[ending]] = True

        # --- Feed it. Rows that ended are fed along until enough of them have: leaving copies the cache of the others.
        live = ~ended_R[rows]
        n_live = int(live.sum())
        if n_live == 0:
            break
        if position + 1 == limit:
            break
        if entries is not None:
            rows, chosen, entries = rows[live], chosen[live], entries[live]
            branches = _Branches.of(chosen, entries)
            if 2 * len(branches.ids_E) <= n_live:
                cache.batch_select_indices(branches.parent_E)
                entries = branches.entry_L
                logits = step(branches.ids_E, rows[branches.row_E], cache).logits_BV
                continue
            cache.batch_select_indices(entries)
            entries = None
        elif drop_ended and 4 * n_live <= 3 * live.shape[0]:
            keep = live.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, chosen = rows[keep], chosen[keep]
        logits = step(chosen, rows, cache).logits_BV
    return Draw(ids_RT, logp_RT, entropy_RT, length_R, ~ended_R)


@dataclass(frozen=True, eq=False, slots=True)
class _Branches:
    """How the entries of a cache branch when L rows draw their next token.

    Attributes:
        ids_E: The token of each new entry; rows of one entry that draw the same token stay together.
        parent_E: The entry that it continues.
        row_E: A row that continues from it.
        entry_L: The new entry of each row.

    Example:
        Of three rows of entry 0, which draw 7, 5 and 7, and one of entry 1, which draws 5: ``ids_E`` is ``[5, 7, 5]``,
        ``parent_E`` is ``[0, 0, 1]``, ``entry_L`` is ``[1, 0, 1, 2]``.
    """

    ids_E: Tensor
    parent_E: Tensor
    row_E: Tensor
    entry_L: Tensor

    @classmethod
    def of(cls, chosen_L: Tensor, entry_L: Tensor) -> Self:
        """Return them.

        Args:
            chosen_L: int64, the token that each row draws.
            entry_L: int64, the entry of each row.
        """
        width = int(chosen_L.max()) + 1
        keys_E, new_L = torch.unique(entry_L * width + chosen_L, return_inverse=True)
        places_L = torch.arange(len(chosen_L), device=chosen_L.device)
        row_E = torch.zeros_like(keys_E).scatter_reduce(0, new_L, places_L, "amax")
        return cls(keys_E % width, keys_E // width, row_E, new_L)


def uniforms(generators: Sequence[torch.Generator], counts: Sequence[int], limit: int) -> Callable[[int], Tensor]:
    """Return the uniform numbers of each position's rows, ``float64 [R]``.

    Args:
        generators: For each part of the rows its source, which moves on by the whole limit at once, so that no part
            depends on how long the others' rows are.
        counts: Rows of each part.
        limit: Positions.
    """
    parts = zip(generators, counts, strict=True)
    ahead_TR = torch.cat([torch.rand(limit, n, generator=source, dtype=torch.float64) for source, n in parts], dim=1)
    return lambda position: ahead_TR[position]


def inverse_cdf(p_LV: Tensor, uniform_L: Tensor) -> Tensor:
    """Draw one id per row by inverting the float64 cumulative distribution; ids of probability 0 are never drawn.

    Args:
        p_LV: Probabilities.
        uniform_L: float64 in [0, 1).
    """
    cdf_LV = p_LV.cumsum(-1, dtype=torch.float64)
    # The largest float64 below 1, times any total, rounds to less than the total: there is always an id above it.
    return torch.searchsorted(cdf_LV, uniform_L[:, None] * cdf_LV[:, -1:], right=True)[:, 0]


def _probabilities(
    logits_LV: Tensor, distribution: Distribution, sampling: SamplingConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities and probabilities of the sampling distribution and its entropy, all float32.

    Over a large vocabulary each pass costs as much as a layer of the model: one exponential serves draw and entropy.
    """
    if distribution.banned_V is not None:
        logits_LV = logits_LV.masked_fill(distribution.banned_V, -torch.inf)
    scaled_LV = _at_temperature(logits_LV, distribution.temperature)
    logp_LV = scaled_LV.log_softmax(-1)
    p_LV = logp_LV.exp()
    if distribution.entropy_temperature in (None, distribution.temperature):
        entropy_L = entropy_of(logp_LV, p_LV)
    else:
        entropy_L = token_entropy(_at_temperature(logits_LV, distribution.entropy_temperature))
    if sampling.top_k is not None or sampling.top_p < 1:
        logp_LV = _truncate(scaled_LV, sampling).log_softmax(-1)
        p_LV = logp_LV.exp()
    return logp_LV, p_LV, entropy_L


def _at_temperature(logits_LV: Tensor, temperature: float) -> Tensor:
    return logits_LV if temperature == 1 else logits_LV / temperature


def _truncate(logits_LV: Tensor, sampling: SamplingConfig) -> Tensor:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    ids = torch.empty(logits_LV.shape[0], 0, dtype=torch.long, device=logits_LV.device)
    if sampling.top_k is not None:
        logits_LV = TopKLogitsWarper(sampling.top_k)(ids, logits_LV)
    if sampling.top_p < 1:
        logits_LV = TopPLogitsWarper(sampling.top_p)(ids, logits_LV)
    return logits_LV
