"""Samples: whole groups of an evaluation, for people to look at. What reads them needs neither torch nor a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from saei.types import Distance

Source: TypeAlias = Literal["held-out", "training"]


@dataclass(frozen=True, slots=True)
class AttackedTokens:
    """The tokens of one clean response, as the attack on a view looked at them.

    Attributes:
        response: The response's number in its group.
        selected: For each token whether the criterion looked at it.
        entropies: For each token the entropy under the view that was made, in nats; empty where that was not measured.
    """

    response: int
    selected: tuple[bool, ...]
    entropies: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ViewSample:
    """One view of a group; the first is the clean one.

    Attributes:
        origin: Where it comes from.
        question: What it asks.
        answer: The right answer to that.
        pictures: Its pictures, as PNG.
        seed: Of the group's source of randomness; None for a view that no intervention made.
        strength: Factor on the attack's steps and radii, None likewise.
        distances: How far each surface was moved, by its name.
        gradient_signs: By surface the shares of values at which the first gradient was negative, zero and positive.
        gradients: For each picture the signs of the first gradient as a PNG: 0 for negative, 128 for zero, 255 for
            positive; empty where no gradient moved it.
        tokens: What the attack looked at.
    """

    origin: str
    question: str
    answer: str
    pictures: tuple[bytes, ...] = ()
    seed: int | None = None
    strength: float | None = None
    distances: Mapping[str, Distance] = field(default_factory=dict)
    gradient_signs: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    gradients: tuple[bytes, ...] = ()
    tokens: tuple[AttackedTokens, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseSample:
    r"""One response of a group, T tokens.

    Attributes:
        view: The number of the view that it was drawn from.
        update_view: The number of the view that it is trained under.
        text: Its text.
        ids: T token ids.
        pieces: The T tokens' texts, which together are the response with its special tokens.
        entropies: T entropies under the view that it was drawn from, in nats.
        logps: T log-probabilities with which it was drawn.
        truncated: Whether the length limit ended it.
        reward: Its reward.
        correct: Whether it is right.
        parts: The reward's parts by name.
        extracted: The final answer read from it, None if none could be read.
        reason: Why it is right or wrong.
        advantage: Its advantage, a mean where tokens have their own; None for a response that is not trained on.
        dropped: Why a guard left it out, None if none did.
        entropy: Its mean entropy, None for an empty response. Runs by an older version kept no more than this.
    """

    view: int
    update_view: int
    text: str
    ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    entropies: tuple[float, ...] = ()
    logps: tuple[float, ...] = ()
    truncated: bool = False
    reward: float = 0.0
    correct: bool | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    extracted: str | None = None
    reason: str = ""
    advantage: float | None = None
    dropped: str | None = None
    entropy: float | None = None


@dataclass(frozen=True, slots=True)
class GroupSample:
    """One group with all its views and responses.

    Attributes:
        step: Steps done.
        source: ``held-out`` for a fixed example of the evaluation split, ``training`` for a group that was trained on.
        number: Its number among the groups of that source.
        example: The example's id.
        untouched: Why nothing was moved, None if something was or nothing should be.
        views: Its views, the clean one first.
        responses: Its responses.
    """

    step: int
    source: Source
    number: int
    example: str
    untouched: str | None
    views: tuple[ViewSample, ...]
    responses: tuple[ResponseSample, ...]

    @property
    def question(self) -> str:
        """What the clean view asks."""
        return self.views[0].question

    @property
    def answer(self) -> str:
        """The right answer to that."""
        return self.views[0].answer

    def from_view(self, number: int) -> list[ResponseSample]:
        """Return the responses that were drawn from a view."""
        return [response for response in self.responses if response.view == number]

    def tokens_of(self, response: int, view: int) -> AttackedTokens | None:
        """Return a response's tokens as the attack on a view looked at them, None if it did not."""
        return next((tokens for tokens in self.views[view].tokens if tokens.response == response), None)
