"""The sampler seam: how many responses from which views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from saei.policy import Policy
from saei.strategy import Strategy
from saei.types import Grade, Group, Response, ScoredGroup, View


def _untimed(name: str) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, eq=False, slots=True)
class SamplingContext:
    """What a sampler may use.

    Attributes:
        policy: The current policy.
        grade: Grades a view's responses, for gates that ask.
        progress: Share of the training done, in [0, 1].
        generator: Source of all randomness, on the CPU.
        phase: ``with ctx.phase("attack"):`` accounts the time spent inside.
    """

    policy: Policy
    grade: Callable[[View, Sequence[Response]], Sequence[Grade]]
    progress: float
    generator: torch.Generator
    phase: Callable[[str], AbstractContextManager[Any]] = field(default=_untimed)


class Sampler(Strategy, ABC):
    """Draws groups. To add one, implement ``draw`` and ``group_size``."""

    kind: ClassVar[str] = "sampler"

    @property
    @abstractmethod
    def group_size(self) -> int:
        """Responses per group, whatever the views."""

    @abstractmethod
    def draw(self, views: Sequence[View], ctx: SamplingContext) -> list[Group]:
        """Return one group per clean view, each with ``group_size`` responses."""

    def guard(self, scored: ScoredGroup) -> ScoredGroup:
        """Take a last look at a scored group before its advantages are taken."""
        return scored
