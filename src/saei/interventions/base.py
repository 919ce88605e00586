"""The seams of an intervention's slots: criterion, strength, gate and guard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from saei.config.strategy import Strategy
from saei.interventions.context import SamplingContext
from saei.need import Need
from saei.policy import Scores
from saei.types import Response, ScoredGroup, View


class Criterion(Strategy, ABC):
    """What an attack raises, as a value per token. To add one, implement ``per_token``."""

    kind: ClassVar[str] = "criterion"

    @property
    def needs(self) -> frozenset[Need]:
        """Keys of ``Scores.statistics`` that ``per_token`` reads; log-probabilities are there in any case."""
        return frozenset()

    @abstractmethod
    def per_token(self, scores: Scores) -> Tensor:
        """Return ``[N, T]`` differentiable values, in nats.

        Args:
            scores: The clean responses under the moved view, which is their own here, and in ``scores.statistics``
                what the criterion needs; on tokens that are not selected all of it is 0.
        """

    def value(self, scores: Scores, selected_NT: Tensor, *, pooled: bool) -> Tensor:
        """Return J of one group.

        J is the mean over responses of the mean over their selected tokens; with ``pooled``, for selections of
        scope ``group``, the mean over all selected tokens, since a response may have none. J of nothing is 0.
        """
        weight_NT = selected_NT.to(scores.logp_NT.dtype)
        values_NT = self.per_token(scores) * weight_NT
        if pooled:
            return values_NT.sum() / weight_NT.sum().clamp_min(1)
        count_N = weight_NT.sum(1)
        return (values_NT.sum(1) / count_N.clamp_min(1)).sum() / (count_N > 0).sum().clamp_min(1)


class Strength(Strategy, ABC):
    """Scales every step and radius of the attack over training. To add one, implement ``at``."""

    kind: ClassVar[str] = "strength"

    @abstractmethod
    def at(self, progress: float) -> float:
        """Return the factor, 0 or more, at a share of the training in [0, 1]."""


class Gate(Strategy, ABC):
    """Decides which groups are attacked. To add one, implement ``opens``."""

    kind: ClassVar[str] = "gate"

    @property
    def needs(self) -> frozenset[Need]:
        """What ``opens`` asks of ``ctx.statistics``."""
        return frozenset()

    @abstractmethod
    def opens(self, view: View, responses: Sequence[Response], ctx: SamplingContext) -> bool:
        """Return whether a group is attacked.

        Args:
            view: The group's clean view.
            responses: The responses drawn from it.
            ctx: The step; ``ctx.grade(view, responses)`` grades them.
        """


class Guard(Strategy, ABC):
    """Looks at a scored group before its advantages are taken. To add one, implement ``inspect``."""

    kind: ClassVar[str] = "guard"

    @property
    def needs(self) -> frozenset[Need]:
        """What ``inspect`` asks of ``ctx.statistics``."""
        return frozenset()

    @abstractmethod
    def inspect(self, scored: ScoredGroup, ctx: SamplingContext) -> ScoredGroup | None:
        """Return the group as it is to be trained on, ``scored.keep(...)`` for fewer responses, None to drop it."""
