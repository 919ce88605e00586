"""Ranking tokens by entropy, in a response or over the group, and what selectors by rank share."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from saei.entropy.selectors.base import Selector

Scope: TypeAlias = Literal["response", "group"]


class Ranked(Selector):
    """Chooses tokens by their rank, within each response or over the group."""

    class Config(Selector.Config):
        """Fields of every selector by rank.

        Attributes:
            scope: Rank within each response or over the group; in scope ``group`` a response may keep no token.
        """

        scope: Scope = "response"

    config: Config

    @property
    def pooled(self) -> bool:
        """Whether the ranking goes over the group."""
        return self.config.scope == "group"


def rank(entropy_NT: Tensor, candidates_NT: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """Return each token's rank by ascending entropy and the number of candidates it is ranked among.

    Ties are broken by position, earlier first; tokens that are no candidates rank last.

    Args:
        entropy_NT: Entropies.
        candidates_NT: bool, the tokens that are ranked.
        scope: Rank within each response, or over all tokens of the group.

    Returns:
        ``rank_NT``, int64, and the counts, ``[N, 1]`` or in scope ``group`` ``[1, 1]``.
    """
    shape = entropy_NT.shape
    if scope == "group":
        entropy_NT, candidates_NT = entropy_NT.reshape(1, -1), candidates_NT.reshape(1, -1)
    order = entropy_NT.masked_fill(~candidates_NT, torch.inf).argsort(dim=-1, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank_NT = torch.empty_like(order).scatter_(-1, order, places)
    return rank_NT.reshape(shape), candidates_NT.sum(-1, keepdim=True)


def floor_share(count: Tensor, share: Fraction) -> Tensor:
    """Return ``floor(count * share)``, exactly: a decimal's numerator times a count may not fit into 64 bits."""
    floors = [number * share.numerator // share.denominator for number in count.flatten().tolist()]
    return torch.tensor(floors, dtype=torch.int64, device=count.device).reshape(count.shape)


def ceil_share(count: Tensor, share: Fraction) -> Tensor:
    """Return ``ceil(count * share)``, exactly."""
    return -floor_share(-count, share)
