"""Branching: new responses that copy the start of an earlier one and diverge at an uncertain token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.errors import ConfigError
from saei.policy import Policy
from saei.samplers.base import (
    MOST_RESPONSES,
    OwnLoopOnly,
    PlannedArm,
    Sampler,
    SamplingPlan,
    StepContext,
    Supply,
    clean_arm,
)
from saei.types import Group, Response, View

ORIGIN = "branched"


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a response is cut.

    Attributes:
        length: Tokens before the cut, which branches take over; 0 where the response has no candidate.
        entropy: Entropy at the token after them, in nats.
    """

    length: int
    entropy: float


class Branch(Sampler):
    """CURE's sampling: each response is cut at one of its most uncertain tokens and continued anew from there.

    The candidates are the tokens of a response with the highest entropies; one of them is drawn, and the branches take
    over what stands before it. A token that ends the response, the first one, and tokens of little text are no
    candidates. A response without any gets branches that are drawn from the beginning. Originals and branches make one
    group, all of them from what the clean view shows: a rival of SaEI that acts on the text, at the very tokens that
    the entropy names.

    Source: https://arxiv.org/abs/2508.11016; candidates and defaults as in its code, except as the fields say.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            n: Responses that are drawn whole; CURE has 4, 6 is ours.
            branches: Branches of each; CURE has 3, 1 is ours.
            candidates: How many of a response's most uncertain tokens it may be cut at.
            min_characters: Shortest text, without spaces around it, of such a token. CURE leaves out tokens of one
                character.
            train_prefix: Whether the tokens that a branch took over are trained as part of it. CURE has them in the
                prompt, where they are not. If they are, they count in each branch as well as in the original.
        """

        type: Literal["branch"] = "branch"
        n: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        branches: int = Field(default=1, ge=1, le=MOST_RESPONSES)
        candidates: int = Field(default=20, ge=1, le=2**20)
        min_characters: int = Field(default=2, ge=0, le=1000)
        train_prefix: bool = False

    config: Config

    def plan(self) -> SamplingPlan:
        """Return the originals and the branches; all are drawn from what the clean view shows."""
        config = self.config
        reason = "it trains every token of a response, and here branches leave out what they took over"
        return SamplingPlan(
            arms=(clean_arm(config.n, "n"), PlannedArm(ORIGIN, config.n * config.branches, update_on="clean")),
            own_loop_only=() if config.train_prefix else (OwnLoopOnly("train_prefix", reason),),
            prefixes=True,
        )

    def check(self, policy: Policy, views: Sequence[View]) -> None:
        """Refuse a decoder that draws whole responses only, and settings by which no response could ever be cut.

        Raises:
            ConfigError: If there is such a thing.
        """
        if not policy.decoder.takes_prefixes:
            raise ConfigError(
                "The sampler 'branch' needs a decoder that can continue given tokens.",
                reason=f"{type(policy.decoder).__name__} cannot.",
                remedy="Use the decoder `native`, or another sampler.",
            )
        if policy.sampling.max_new_tokens < 2:
            raise ConfigError(
                "The sampler 'branch' cuts responses behind their first token.",
                reason="sampling.max_new_tokens is 1.",
                remedy="Raise it, or use another sampler.",
            )
        longest = _longest_token(policy, self.config.min_characters)
        if longest < self.config.min_characters:
            raise ConfigError(
                "The sampler 'branch' cuts responses at tokens of enough text.",
                reason=f"sampler.min_characters is {self.config.min_characters}; the longest token of the model has "
                f"{longest} characters.",
                remedy="Lower it.",
            )

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view: originals, then the branches of the first, of the second, and so on."""
        n, branches = self.config.n, self.config.branches
        originals = step.sample(views, [n] * len(views))
        cuts = [
            [self.cut(step.policy, response, step.generator_of(view)) for response in drawn]
            for view, drawn in zip(views, originals, strict=True)
        ]
        prefixes = [
            [
                response.prefix(cut.length, number) if cut.length else None
                for number, (response, cut) in enumerate(zip(drawn, of_view, strict=True))
                for _ in range(branches)
            ]
            for drawn, of_view in zip(originals, cuts, strict=True)
        ]
        drawn_on = step.sample(views, [n * branches] * len(views), prefixes=prefixes)
        return [
            Group(
                example=view.example,
                # The second view shows the same. Its origin tells the branches apart.
                views=(view, replace(view, origin=ORIGIN)),
                responses=(*drawn, *continued),
                sampled_from=(0,) * n + (1,) * (n * branches),
                updated_on=(0,) * (n + n * branches),
                untrained=() if self.config.train_prefix else (*[0] * n, *(branch.forced for branch in continued)),
                metrics=_metrics(drawn, of_view, continued),
            )
            for view, drawn, of_view, continued in zip(views, originals, cuts, drawn_on, strict=True)
        ]

    def cut(self, policy: Policy, response: Response, generator: torch.Generator) -> Cut:
        """Return where a response is cut; ties in entropy are broken by position.

        Args:
            policy: For its tokenizer and the ids that end a response.
            response: The response.
            generator: Draws one of the candidates.
        """
        entropy_T = response.entropy_T.cpu()
        places = torch.tensor(self._candidates(policy, response), dtype=torch.long)
        order = entropy_T[places].argsort(descending=True, stable=True)
        places = places[order[: self.config.candidates]]
        # Drawn even if there is none, so that an empty response does not change what the next ones get.
        drawn = torch.rand((), generator=generator, dtype=torch.float64)
        if not len(places):
            return Cut(0, 0.0)
        place = int(places[int(drawn * len(places))])
        return Cut(place, float(entropy_T[place]))

    def _candidates(self, policy: Policy, response: Response) -> list[int]:
        """Return the places after the first whose tokens do not end the response and have enough text."""
        ends = set(policy.eos_ids.tolist())
        ids = response.ids_T.tolist()
        texts = policy.tokenizer.batch_decode([[token] for token in ids]) if ids else []
        return [
            place
            for place, (token, text) in enumerate(zip(ids, texts, strict=True))
            if place and token not in ends and len(text.strip()) >= self.config.min_characters
        ]


def _longest_token(policy: Policy, enough: int) -> int:
    """Return the length of the longest token that a response may be cut at, in characters.

    Args:
        policy: For its tokenizer and the ids that it draws.
        enough: A length; once a token has it, no further one is read.
    """
    banned_V, ends = policy.distribution.banned_V, set(policy.eos_ids.tolist())
    longest = 0
    for token in range(len(policy.tokenizer)):
        if longest >= enough:
            break
        if token not in ends and (banned_V is None or not bool(banned_V[token])):
            longest = max(longest, len(policy.tokenizer.decode([token]).strip()))
    return longest


def _metrics(originals: Sequence[Response], cuts: Sequence[Cut], branches: Sequence[Response]) -> dict[str, float]:
    """Return how many responses were cut, where, and how much of the branches was taken over."""
    made = [(len(response), cut) for response, cut in zip(originals, cuts, strict=True) if cut.length]
    tokens = sum(map(len, branches))
    metrics = {
        "cut": len(made) / len(cuts),
        "taken_over": sum(branch.forced for branch in branches) / max(1, tokens),
    }
    if made:
        metrics["cut_place"] = sum(cut.length / length for length, cut in made) / len(made)
        metrics["cut_entropy"] = sum(cut.entropy for _, cut in made) / len(made)
    return metrics
