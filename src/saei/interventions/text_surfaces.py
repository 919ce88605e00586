"""Surfaces of text: the embeddings of the question's tokens, the tokens themselves, and the question's wording."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from saei.attacks.base import BlockSpace, TokenSpace
from saei.config.strategy import StrategyConfig
from saei.interventions.base import Opening, Surface
from saei.interventions.context import Oracle
from saei.interventions.editable import editable_places, has_editable_word, writable, writes_frozen
from saei.policy import Policy
from saei.types import Distance, Example, View


class QuestionSurface(Surface):
    """Something of the question's tokens, of which ``editable_places`` says which may move. To add one: ``block``."""

    reasons: ClassVar[tuple[str, ...]] = ("no-question", "nothing-editable")
    needs_question: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields of every surface of the question's tokens.

        Attributes:
            protected: Words and phrases that are never changed nor written, such as the names that a task asks about.
        """

        protected: tuple[str, ...] = ()

    config: Config

    def lacks(self, view: View) -> str | None:
        """Return ``no-question`` where its place is not known, ``nothing-editable`` where all of it is frozen."""
        if view.question is None:
            return "no-question"
        return None if any(editable_places(view, self.config.protected)) else "nothing-editable"

    def example_lacks(self, example: Example) -> str | None:
        """Return ``nothing-editable`` where every word of the question is frozen."""
        return None if has_editable_word(example, self.config.protected) else "nothing-editable"

    def open(self, policy: Policy, views: Sequence[View], *, scale: float) -> Opening:
        """Return one block for each view that has the surface."""
        having = [number for number, view in enumerate(views) if self.lacks(view) is None]
        opened = [self.block(policy, views[number], scale) for number in having]
        return Opening(tuple(block for block, _ in opened), tuple(space for _, space in opened), tuple(having))

    @abstractmethod
    def block(self, policy: Policy, view: View, scale: float) -> tuple[Tensor, BlockSpace]:
        """Return a view's block as it is, and where it may go."""

    def editable(self, view: View) -> Tensor:
        """Return the bool mask of the question's tokens that may be changed, ``[Q]``, on the view's device."""
        return torch.tensor(editable_places(view, self.config.protected), device=view.prompt_ids_P.device)


class Embeddings(QuestionSurface):
    """An offset on the embeddings of the question's tokens, whatever these are when it is added.

    A view with one is no text, so a decoder elsewhere cannot draw from it. Source: original for vision-language
    policies; arXiv 1605.07725 and arXiv 1909.11764 for text.
    """

    space: ClassVar[str] = "embeddings"
    offsets: ClassVar[bool] = True

    class Config(QuestionSurface.Config):
        """No fields of its own."""

        type: Literal["embeddings"] = "embeddings"

    config: Config

    def block(self, policy: Policy, view: View, scale: float) -> tuple[Tensor, BlockSpace]:
        """Return the offset ``[Q, d]``, zero at first, in the units ``rms``, ``distance`` and ``neftune``."""
        assert view.question is not None
        n_tokens, n_features = len(view.question.places_Q), policy.embeddings.size
        offset_Qd = torch.zeros(n_tokens, n_features, device=policy.device)
        units: dict[str, float | Tensor] = {
            "rms": policy.embeddings.rms,
            "distance": policy.embeddings.distance / math.sqrt(n_features),
            "neftune": 1 / math.sqrt(n_tokens * n_features),
        }
        editable_Q1 = self.editable(view)[:, None]
        space = BlockSpace(self.space, low=-torch.inf, high=torch.inf, units=units, scale=scale, editable=editable_Q1)
        return (offset_Qd if view.offset_Qd is None else view.offset_Qd), space

    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return the views with these offsets, and the offsets."""
        at = [replace(view, offset_Qd=block.detach()) for view, block in zip(views, blocks, strict=True)]
        return at, {"embeddings": blocks}

    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        """Return the views with these offsets."""
        return [replace(view, offset_Qd=block) for view, block in zip(views, blocks, strict=True)]

    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        """Return the share of tokens that moved, and the largest change of a feature in the embeddings' RMS."""
        changes = torch.cat([b - a for a, b in zip(start, moved, strict=True)]).abs()
        return Distance(float(changes.any(1).float().mean()), float(changes.max()) / float(spaces[0].units["rms"]))


class Tokens(QuestionSurface):
    """The ids of the question's tokens, each of which may be swapped for another one that fits its place.

    Tokens fit where both begin a word or both do not, and where the text that they make writes nothing that is frozen.
    """

    space: ClassVar[str] = "tokens"

    class Config(QuestionSurface.Config):
        """Fields of ``tokens``.

        Attributes:
            questions: Which questions a swap may make: ``any``; those that are ``answerable`` by the task's oracle; or
                those with the same answer, ``answer-kept``. Of ``any``, a group whose question has become unanswerable
                is left alone.
        """

        type: Literal["tokens"] = "tokens"
        questions: Literal["any", "answerable", "answer-kept"] = "any"

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.rewords = self.config.questions != "answer-kept"
        self.needs_oracle = self.config.questions != "any"
        self._kinds_by_policy: WeakKeyDictionary[Policy, Tensor] = WeakKeyDictionary()

    def block(self, policy: Policy, view: View, scale: float) -> tuple[Tensor, BlockSpace]:
        """Return the ids ``[Q]``."""
        assert view.question is not None
        ids_Q = view.prompt_ids_P[view.question.places_Q]

        def legal(swapped_Q: Tensor) -> bool:
            swapped = policy.with_question_ids(view, swapped_Q)
            return swapped is not None and not writes_frozen(view, swapped, self.config.protected)

        tokens = TokenSpace(policy.embeddings.size, policy.embeddings.scores, self._kinds(policy), legal)
        space = BlockSpace(
            self.space,
            low=0,
            high=len(tokens.kind_V) - 1,
            units={},
            scale=scale,
            editable=self.editable(view),
            tokens=tokens,
        )
        return ids_Q, space

    def restricted(self, policy: Policy, views: Sequence[View], opening: Opening, oracle: Oracle) -> Opening:
        """Return the opening with those swaps alone whose question the config allows."""
        if not self.needs_oracle:
            return opening
        pairs = zip(opening.spaces, opening.examples, strict=True)
        return replace(opening, spaces=tuple(self._restricted(policy, views[n], space, oracle) for space, n in pairs))

    def _restricted(self, policy: Policy, view: View, space: BlockSpace, oracle: Oracle) -> BlockSpace:
        tokens = space.tokens
        assert tokens is not None

        def legal(swapped_Q: Tensor) -> bool:
            # The oracle first: it refuses nearly all, in a tenth of the time that encoding the text takes.
            text = policy.question_text(view, swapped_Q)
            answer = None if text is None else oracle(view.example, text)
            allowed = answer is not None and (self.rewords or answer == view.example.answer)
            return allowed and tokens.legal(swapped_Q)

        return replace(space, tokens=replace(tokens, legal=legal))

    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return the views with these ids in their prompts."""
        at = []
        for view, ids_Q in zip(views, blocks, strict=True):
            assert view.question is not None
            at.append(replace(view, prompt_ids_P=view.prompt_ids_P.index_copy(0, view.question.places_Q, ids_Q)))
        return at, {}

    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        """Return the views of the questions that these ids spell."""
        moved = []
        for view, ids_Q in zip(views, blocks, strict=True):
            changed = policy.with_question_ids(view, ids_Q)
            assert changed is not None, "an attack on tokens makes legal swaps alone"
            moved.append(changed)
        return moved

    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        """Return the share of the question's tokens that were swapped, and how many they are."""
        swapped = torch.cat([a != b for a, b in zip(start, moved, strict=True)])
        return Distance(float(swapped.float().mean()), float(swapped.sum()))

    def _kinds(self, policy: Policy) -> Tensor:
        """Return 1 for tokens that begin a word, 0 for others that may be written, -1 for the rest, ``[V]``."""
        if policy not in self._kinds_by_policy:
            kinds = [
                int(text[:1].isspace()) if writable(text, self.config.protected) else -1
                for text in policy.embeddings.texts
            ]
            self._kinds_by_policy[policy] = torch.tensor(kinds, device=policy.device)
        return self._kinds_by_policy[policy]


class Wording(Surface):
    """The number of the question's wording: 0 is its own, further ones are the example's ``wordings``."""

    space: ClassVar[str] = "wording"
    replaces_question: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("one-wording",)

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["wording"] = "wording"

    config: Config

    def lacks(self, view: View) -> str | None:
        """Return ``one-wording`` for an example that has no other."""
        return self.example_lacks(view.example)

    def example_lacks(self, example: Example) -> str | None:
        """Return ``one-wording`` for an example that has no other."""
        return None if example.wordings else "one-wording"

    def open(self, policy: Policy, views: Sequence[View], *, scale: float) -> Opening:
        """Return a number ``[1]`` for each view with several wordings."""
        having = [number for number, view in enumerate(views) if self.lacks(view) is None]
        spaces = tuple(
            BlockSpace(self.space, low=0, high=len(views[number].example.wordings), units={}, scale=scale)
            for number in having
        )
        zero = torch.zeros(1, dtype=torch.long, device=policy.device)
        return Opening((zero,) * len(having), spaces, tuple(having))

    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return the views as they are: no attack takes the criterion of another wording."""
        return list(views), {}

    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        """Return the views of these wordings."""
        moved = []
        for view, number in zip(views, map(int, blocks), strict=True):
            if number:
                example = replace(view.example, question=view.example.wordings[number - 1], wordings=(), protected=())
                view = replace(policy.view(example, view.index), canvases=view.canvases)
            moved.append(view)
        return moved

    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        """Return 1 for another wording and 0 for the same."""
        other = float(any(int(a) != int(b) for a, b in zip(start, moved, strict=True)))
        return Distance(other, other)
