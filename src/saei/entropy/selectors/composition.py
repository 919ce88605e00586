"""Selectors made of selectors."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from saei.config.registry import SelectorField
from saei.entropy.selectors.base import Selector, TokenStats, checked_selection
from saei.need import Need
from saei.runtime.seeds import derive


class Composition(Selector):
    """Made of what other selectors choose. To add one, implement ``combine``.

    Each part chooses for itself, among the tokens that *it* does not exclude; ``exclude`` of the composition is taken
    from the result. A part that draws at random draws from a source of its own.
    """

    class Config(Selector.Config):
        """Fields of every composition.

        Attributes:
            of: The selectors that it is made of.
        """

        of: tuple[SelectorField, ...]

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.of: tuple[Selector, ...] = tuple(part.build() for part in self.config.of)

    def parts(self) -> Mapping[str, Selector]:
        """Return the parts by their numbers."""
        return {f"part {number}": part for number, part in enumerate(self.of)}

    @property
    def needs(self) -> frozenset[Need]:
        """What is excluded, and what the parts need."""
        return super().needs.union(*(part.needs for part in self.of))

    @property
    def pooled(self) -> bool:
        """Whether a part chooses over the group."""
        return any(part.pooled for part in self.of)

    @abstractmethod
    def combine(self, masks: Sequence[Tensor]) -> Tensor:
        """Return the mask that is made of the parts' masks, each ``[N, T]``; it may leave the candidates."""

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the combined mask."""
        # If the parts drew from one source, how much the first takes for other responses would move the second's draws.
        digest = hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()
        seeds = [derive(number, "part", digest) for number in range(len(self.of))]
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        masks = [
            checked_selection(part, stats, progress=progress, generator=source)
            for part, source in zip(self.of, sources, strict=True)
        ]
        undrawn = [torch.Generator().manual_seed(seed).get_state() for seed in seeds]
        if not all(torch.equal(source.get_state(), state) for source, state in zip(sources, undrawn, strict=True)):
            torch.rand((), generator=generator)  # so that the next selection draws other numbers
        return self.combine(masks) & self.candidates(stats)


def _check_sense(config: Any, result: str) -> None:
    """Refuse fewer than two selectors, one twice, and one beside its own opposite; `random` draws anew each time.

    Raises:
        ValueError: Saying what is wrong with them.
    """
    if len(config.of) < 2:
        raise ValueError(f"`{config.type}` combines two selectors or more; got {len(config.of)}.")
    twice = [part.type for n, part in enumerate(config.of) if part in config.of[:n] and not _is_random(part)]
    if twice:
        raise ValueError(f"`{twice[0]}` stands twice in `{config.type}`, which changes nothing. Leave one out.")
    opposites = [part.of[0] for part in config.of if part.type == "not"]
    both = [part.type for part in config.of if part in opposites and not _is_random(part)]
    if both:
        raise ValueError(f"`{both[0]}` {config.type} its own `not` keeps {result}. Leave one out.")


def _is_random(part: Any) -> bool:
    """Return whether a selector, or one that it is made of, is `random`."""
    return part.type == "random" or any(map(_is_random, getattr(part, "of", ())))


class And(Composition):
    """Keep the tokens that all of several selectors choose; written ``a & b`` in Python. Source: original."""

    class Config(Composition.Config):
        """Fields.

        Attributes:
            of: Two selectors or more.
        """

        type: Literal["and"] = "and"

        @model_validator(mode="after")
        def _has_sense(self) -> Self:
            _check_sense(self, "no token")
            return self

    config: Config

    def combine(self, masks: Sequence[Tensor]) -> Tensor:
        """Return what is in all masks."""
        return reduce(torch.logical_and, masks)


class Or(Composition):
    """Keep the tokens that one or more of several selectors choose; written ``a | b`` in Python. Source: original."""

    class Config(Composition.Config):
        """Fields.

        Attributes:
            of: Two selectors or more.
        """

        type: Literal["or"] = "or"

        @model_validator(mode="after")
        def _has_sense(self) -> Self:
            _check_sense(self, "every token")
            return self

    config: Config

    def combine(self, masks: Sequence[Tensor]) -> Tensor:
        """Return what is in some mask."""
        return reduce(torch.logical_or, masks)


class Not(Composition):
    """Keep the tokens that a selector leaves; written ``~a`` in Python. Source: original."""

    class Config(Composition.Config):
        """Fields.

        Attributes:
            of: One selector.
        """

        type: Literal["not"] = "not"

        @model_validator(mode="after")
        def _leaves_some(self) -> Self:
            if len(self.of) != 1:
                raise ValueError(f"`not` takes one selector; got {len(self.of)}. Combine several by `and` or `or`.")
            part: Any = self.of[0]
            if part.type == "all" and not part.exclude:
                raise ValueError("`not` of `all` keeps no token. Name a selector that leaves some.")
            return self

    config: Config

    def combine(self, masks: Sequence[Tensor]) -> Tensor:
        """Return what is not in the mask."""
        return ~masks[0]
