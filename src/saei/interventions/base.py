"""The seams of an intervention's slots: criterion, strength, gate and guard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from saei.config.strategy import Strategy
from saei.interventions.context import StepContext, Supply
from saei.need import Need
from saei.policy import Scores
from saei.types import Drops, Response, ScoredGroup, View


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
    """Decides which groups are attacked. To add one, implement ``leave_alone``."""

    kind: ClassVar[str] = "gate"
    needs_supply: ClassVar[bool] = True
    """Whether it asks ``Supply``; one that does not is open to engines that have none."""

    @property
    def needs(self) -> frozenset[Need]:
        """What ``leave_alone`` asks of ``step.statistics``."""
        return frozenset()

    @abstractmethod
    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> Sequence[str | None]:
        """Return for each group None, or in a word why it is left alone; metrics count groups by these reasons.

        Called once in every process for all groups that are drawn together and have something to move, of which a
        process may have none.

        Args:
            views: The groups' clean views.
            responses: For each the responses drawn from it.
            step: The policy and the circumstances.
            supply: ``supply.grade(view, responses)`` grades a group; None where there is none, if ``needs_supply`` is
                False.
        """


class Guard(Strategy, ABC):
    """Looks at the scored groups before advantages are taken. To add one, implement ``drop``."""

    kind: ClassVar[str] = "guard"
    needs_supply: ClassVar[bool] = True
    """Whether it has to be asked at all: TRL has no place for it."""

    @property
    def needs(self) -> frozenset[Need]:
        """What ``drop`` asks of ``step.statistics``."""
        return frozenset()

    @abstractmethod
    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> Sequence[Drops]:
        """Return for each group the responses that are not trained on, by number, and in a word why.

        Called once in every process for all scored groups of the step, of which a process may have none. A group all
        of whose responses are dropped is dropped itself. Metrics count responses by these reasons.
        """
