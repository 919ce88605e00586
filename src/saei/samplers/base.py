"""The sampler seam: how many responses from which views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from saei.config.strategy import Strategy
from saei.interventions.context import SamplingContext
from saei.policy import Policy
from saei.types import Group, ScoredGroup, View

__all__ = ["Sampler", "SamplingContext"]


MOST_RESPONSES = 4096
"""Responses of one group from one kind of view; far beyond what a step can hold."""


class Sampler(Strategy, ABC):
    """Draws groups. To add one, implement ``draw`` and ``group_size``."""

    kind: ClassVar[str] = "sampler"

    @property
    @abstractmethod
    def group_size(self) -> int:
        """Responses per group, whatever the views."""

    @abstractmethod
    def draw(self, views: Sequence[View], ctx: SamplingContext) -> list[Group]:
        """Return one group per clean view, each with ``group_size`` responses.

        The groups stand in the order of their views: the given ones, then those that ``ctx.more`` was asked for.
        """

    def check(self, policy: Policy, view: View) -> None:
        """Find out on one view, before any long work, whether the sampler can do its work with this policy.

        Raises:
            ModelError: If it cannot.
        """

    def guard(self, scored: ScoredGroup, ctx: SamplingContext) -> ScoredGroup | None:
        """Take a last look at a scored group before its advantages are taken; None drops it."""
        return scored
