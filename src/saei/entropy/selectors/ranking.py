"""Ranking tokens by a number, in a response or over the group, and what selectors by rank share."""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import Frac
from saei.entropy.selectors.base import Selector, TokenStats

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


class TopShare(Ranked):
    """Keeps the share of the tokens with the highest scores. To add one, implement ``scores``.

    It keeps ``ceil(L * share)`` of L candidates; of equal scores the later counts as the higher.
    """

    class Config(Ranked.Config):
        """Fields of every selector of the highest scores.

        Attributes:
            share: Share of the candidates that is kept.
        """

        share: Frac = Field(default=Fraction(2, 5), gt=0, le=1)

    config: Config

    @abstractmethod
    def scores(self, stats: TokenStats) -> Tensor:
        """Return the scores ``[N, T]``; what stands on tokens that are no candidates is ignored."""

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the highest scores."""
        candidates_NT = self.candidates(stats)
        return keep_band(candidates_NT, self.scores(stats), 1 - self.config.share, Fraction(1), self.config.scope)


def check_band(lo: Fraction, hi: Fraction) -> None:
    """Check the bounds of a band, for validators of configs.

    Raises:
        ValueError: If nothing lies between them.
    """
    if lo >= hi:
        raise ValueError(f"A band needs lo < hi, else it keeps nothing; got lo={lo}, hi={hi}.")


def keep_band(candidates_NT: Tensor, key_NT: Tensor, lo: Fraction, hi: Fraction, scope: Scope) -> Tensor:
    """Return the mask of the candidates with a rank in ``[floor(L * lo), ceil(L * hi))``."""
    rank_NT, count = rank(key_NT, candidates_NT, scope)
    return candidates_NT & (rank_NT >= floor_share(count, lo)) & (rank_NT < ceil_share(count, hi))


def rank(key_NT: Tensor, candidates_NT: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """Return each token's rank by an ascending number and the number of candidates it is ranked among.

    Ties are broken by position, earlier first; tokens that are no candidates rank last.

    Args:
        key_NT: The numbers, such as entropies.
        candidates_NT: bool, the tokens that are ranked.
        scope: Rank within each response, or over all tokens of the group.

    Returns:
        ``rank_NT``, int64, and the counts, ``[N, 1]`` or in scope ``group`` ``[1, 1]``.
    """
    shape = key_NT.shape
    if scope == "group":
        key_NT, candidates_NT = key_NT.reshape(1, -1), candidates_NT.reshape(1, -1)
    order = key_NT.masked_fill(~candidates_NT, torch.inf).argsort(dim=-1, stable=True)
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
