"""Attacks on a text's tokens: some of them are swapped for others, and the text keeps its length.

The file is long because the three attacks share how swaps are proposed, checked to be legal and compared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space, TokenSpace
from saei.attacks.gradient import value_and_gradients
from saei.config.strategy import StrategyConfig

MOST_CHECKS = 4096
"""Proposals for one swap of a text that are checked to be legal.

The questions of the built-in tasks have fewer, so that all of them are checked if need be. Those of a large vocabulary
would take minutes, at up to a millisecond each.
"""

CHUNK = 1024
"""Proposals that are brought from a GPU at once: most are never looked at."""


class TokenAttack(Attack):
    """Swaps tokens at editable places, a given number of times for each example's text.

    A swap that no text has is never made: what is decoded has to be encoded as the same tokens. To add one, derive,
    nest a ``Config``, and implement ``swap``.
    """

    spaces = frozenset({"tokens"})
    moves = ("tokens",)
    ball = "none"

    class Config(StrategyConfig):
        """Fields of every attack on tokens.

        Attributes:
            swaps: Tokens that are swapped, one after the other; 0 leaves the text as it is. The intervention's strength
                scales them.
        """

        swaps: int = Field(default=1, ge=0, le=64)

    config: Config

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the point with tokens swapped."""
        point = tuple(block.clone() for block in start)
        scale = max((block.scale for block in space.blocks), default=0.0)
        for _ in range(int(self.config.swaps * Fraction(scale) + Fraction(1, 2))):
            point = self.swap(criterion, point, space, generators)
        return point

    @abstractmethod
    def swap(
        self, criterion: PointCriterion, point: Point, space: Space, generators: Sequence[torch.Generator]
    ) -> Point:
        """Return the point with one more token swapped in each block, where a swap is to be had."""


class RandomSwap(TokenAttack):
    """Swaps a random token for another at random: the control of attacks on tokens. Source: original."""

    class Config(TokenAttack.Config):
        """No fields of its own."""

        type: Literal["random-swap"] = "random-swap"

    config: Config

    def swap(
        self, criterion: PointCriterion, point: Point, space: Space, generators: Sequence[torch.Generator]
    ) -> Point:
        """Return the point with a swap drawn uniformly from those of a place and a token that fits there."""
        return tuple(
            next(_legal(_drawn(ids_Q, block, generators[example]), block), ids_Q)
            for ids_Q, block, example in zip(point, space.blocks, space.examples, strict=True)
        )


class SearchedSwap(TokenAttack):
    """Proposes swaps by the gradient at the tokens' embeddings, and makes the best of them by the criterion itself.

    The text stays as it is where no proposal is better. To add one, implement ``proposals``.
    """

    class Config(TokenAttack.Config):
        """Fields of every attack that searches.

        Attributes:
            width: Swaps of a text of which the criterion is taken, for each swap that is made.
            direction: Raise the criterion, or lower it as a control.
        """

        width: int = Field(default=32, ge=1, le=4096)
        direction: Literal["raise", "lower"] = "raise"

        @property
        def begins_at_clean(self) -> bool:
            """Whether its first gradient is that at the clean view: always, unless it swaps nothing."""
            return self.swaps > 0

    config: Config

    @abstractmethod
    def proposals(
        self, gain_QV: Tensor, ids_Q: Tensor, block: BlockSpace, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield texts ``[Q]`` with one token swapped, until there are no more; illegal ones are passed over.

        Args:
            gain_QV: By how much each swap changes the criterion for the better, to first order; -inf where the token
                does not fit the place.
            ids_Q: The text.
            block: Its space.
            generator: The example's source of randomness.
        """

    def swap(
        self, criterion: PointCriterion, point: Point, space: Space, generators: Sequence[torch.Generator]
    ) -> Point:
        """Return the point with the best swap of those that the gradient proposes.

        Raises:
            ModelError: If no gradient reaches the embeddings.
        """
        J_B, gradients = _at_embeddings(criterion, point, space)
        sign = -1 if self.lowers else 1
        proposals = []
        for ids_Q, gradient_Qd, block, example in zip(point, gradients, space.blocks, space.examples, strict=True):
            gain_QV = linear_gain(sign * gradient_Qd, ids_Q, _tokens_of(block), block.editable)
            candidates = _legal(self.proposals(gain_QV, ids_Q, block, generators[example]), block)
            proposals.append(list(islice(candidates, self.config.width)))
        return self._best(criterion, point, J_B, proposals, space.examples)

    def _best(
        self,
        criterion: PointCriterion,
        point: Point,
        J_B: Tensor,
        proposals: Sequence[Sequence[Tensor]],
        examples: Sequence[int],
    ) -> Point:
        """Return for each text the best of its proposals by the criterion itself, the text where none is better.

        Args:
            criterion: The criterion.
            point: The texts.
            J_B: The criterion's values at the texts.
            proposals: For each text those that it may become.
            examples: For each text its example.
        """
        sign = -1 if self.lowers else 1
        best, best_J = list(point), [float(sign * J_B[example]) for example in examples]
        # The criterion takes one text of every example at a time; one whose proposals are used up is asked again.
        for place in range(max(map(len, proposals), default=0)):
            trial = tuple(
                texts[place] if place < len(texts) else ids_Q for texts, ids_Q in zip(proposals, point, strict=True)
            )
            with torch.no_grad():
                trial_J_B = sign * criterion(trial).detach()
            for number, example in enumerate(examples):
                if place < len(proposals[number]) and float(trial_J_B[example]) > best_J[number]:
                    best[number], best_J[number] = trial[number], float(trial_J_B[example])
        return tuple(best)


class HotFlip(SearchedSwap):
    """Takes the swaps of the largest first-order gain (arXiv 1712.06751) and makes the best by exact values.

    HotFlip ranks by the gain alone; taking the exact criterion of the ``width`` best is ours.
    """

    class Config(SearchedSwap.Config):
        """No fields of its own."""

        type: Literal["hotflip"] = "hotflip"
        width: int = Field(default=8, ge=1, le=4096)

    config: Config

    def proposals(
        self, gain_QV: Tensor, ids_Q: Tensor, block: BlockSpace, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield swaps in the order of their gain, ties by place and id."""
        gain = gain_QV.flatten()
        n_fitting = int((gain > -torch.inf).sum())
        for numbers in gain.argsort(descending=True, stable=True)[:n_fitting].split(CHUNK):
            for number in numbers.tolist():
                yield _swapped(ids_Q, *divmod(number, gain_QV.shape[1]))


class GCG(SearchedSwap):
    """Greedy coordinate gradient (arXiv 2307.15043): exact values choose among random swaps of each place's best.

    nanoGCG's defaults are a ``top_k`` of 256, a width of 512 and 250 swaps; one swap of a width of 32 is ours.
    """

    class Config(SearchedSwap.Config):
        """Fields.

        Attributes:
            top_k: Tokens of a place that are drawn from, those of the largest gain.
        """

        type: Literal["gcg"] = "gcg"
        top_k: int = Field(default=256, ge=1, le=2**20)

    config: Config

    def proposals(
        self, gain_QV: Tensor, ids_Q: Tensor, block: BlockSpace, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield swaps in random order, each once, of the ``top_k`` best of every place."""
        top_QK = gain_QV.topk(min(self.config.top_k, gain_QV.shape[1]), dim=1)
        fits_QK = top_QK.values > -torch.inf
        pairs = [(place, int(top_QK.indices[place, rank])) for place, rank in fits_QK.nonzero().tolist()]
        for number in torch.randperm(len(pairs), generator=generator).tolist():
            yield _swapped(ids_Q, *pairs[number])


def linear_gain(gradient_Qd: Tensor, ids_Q: Tensor, tokens: TokenSpace, editable_Q: Tensor | None) -> Tensor:
    """Return ``(e_v - e_current) · gradient`` for every place and token, ``[Q, V]``; -inf where the token does not fit.

    Args:
        gradient_Qd: Of the criterion at the embeddings of the text.
        ids_Q: The text.
        tokens: The vocabulary.
        editable_Q: Places that may be changed, None for all.
    """
    score_QV = tokens.scores(gradient_Qd.float())
    gain_QV = score_QV - score_QV.gather(1, ids_Q[:, None])
    return gain_QV.masked_fill(~_fits(ids_Q, tokens, editable_Q), -torch.inf)


def _fits(ids_Q: Tensor, tokens: TokenSpace, editable_Q: Tensor | None) -> Tensor:
    """Return the bool mask ``[Q, V]`` of swaps that change an editable place to another token of its kind."""
    kind_V = tokens.kind_V
    fits_QV = (kind_V[None] == kind_V[ids_Q][:, None]) & (kind_V >= 0)[None]
    fits_QV = fits_QV.scatter(1, ids_Q[:, None], False)
    return fits_QV if editable_Q is None else fits_QV & editable_Q[:, None]


def _drawn(ids_Q: Tensor, block: BlockSpace, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield all swaps in random order, each once: a place uniformly, then a token, as if repeats were drawn anew."""
    fits_QV = _fits(ids_Q, _tokens_of(block), block.editable).cpu()
    count_Q = fits_QV.sum(1)
    left_Q, tokens_by_place = count_Q.clone(), dict[int, list[int]]()
    while bool(left_Q.any()):
        # A place that has been drawn from comes less often: a draw of what is gone would have been repeated.
        place = int(torch.multinomial(left_Q / count_Q.clamp_min(1), 1, generator=generator))
        if place not in tokens_by_place:
            fitting = fits_QV[place].nonzero()[:, 0]
            tokens_by_place[place] = fitting[torch.randperm(len(fitting), generator=generator)].tolist()
        left_Q[place] -= 1
        yield _swapped(ids_Q, place, tokens_by_place[place].pop())


def _legal(texts: Iterator[Tensor], block: BlockSpace) -> Iterator[Tensor]:
    """Return the legal ones of the first ``MOST_CHECKS`` texts."""
    return filter(_tokens_of(block).legal, islice(texts, MOST_CHECKS))


def _swapped(ids_Q: Tensor, place: int, token: int) -> Tensor:
    swapped_Q = ids_Q.clone()
    swapped_Q[place] = token
    return swapped_Q


def _tokens_of(block: BlockSpace) -> TokenSpace:
    assert block.tokens is not None, "a block in the space `tokens` says what they are"
    return block.tokens


def _at_embeddings(criterion: PointCriterion, point: Point, space: Space) -> tuple[Tensor, list[Tensor]]:
    """Return ``J_B`` and for each text its gradient at the embeddings of its ids, ``[Q, d]``.

    Ids have no gradient; it is that at offsets of zero, which the criterion adds to their embeddings.

    Raises:
        ModelError: If there is none.
    """
    zeros = tuple(
        torch.zeros(len(ids_Q), _tokens_of(block).size, device=ids_Q.device)
        for ids_Q, block in zip(point, space.blocks, strict=True)
    )

    def at(offsets: Point) -> Tensor:
        return criterion(point, offsets=dict(enumerate(offsets)))

    return value_and_gradients(at, zeros, space.examples)
