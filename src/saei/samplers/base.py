"""The sampler seam: how many responses from which views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from saei.config.strategy import Strategy
from saei.errors import ConfigError, TrainingError
from saei.interventions import InterventionConfig
from saei.interventions.context import StepContext, Supply
from saei.policy import Policy
from saei.types import CLEAN, Drops, Example, Group, ScoredGroup, View

__all__ = ["OwnLoopOnly", "PlannedArm", "Sampler", "SamplingPlan", "StepContext", "Supply"]

MOST_RESPONSES = 4096
"""Responses of one group from one kind of view; far beyond what a step can hold."""

UpdateOn: TypeAlias = Literal["sampled", "clean", "perturbed"]


@dataclass(frozen=True, slots=True)
class PlannedArm:
    """Responses of a group that are drawn in the same way.

    Attributes:
        origin: Origin of the views that they are drawn from.
        responses: How many; of a group that the intervention leaves alone they come from the clean view.
        views: How many views share them, at most.
        update_on: The view that they are trained under: ``sampled``, the one they were drawn from; ``clean``; or
            ``perturbed``, theirs, which the clean responses are trained under, too.
        beta: Exponent of the view weight.
        intervention: How the views are made; None for the clean view and for views that are made in another way.
        rewords: Whether its views may ask something else than the example does, with another right answer.
        offsets: Whether its views have an offset on embeddings, which are no tokens that every decoder could read.
        needs_others: Whether its control takes the changes of other groups that are drawn together.
        needs_oracle: Whether the task's oracle decides how its views are made.
        path: Where its settings stand, dotted, below the sampler's; empty for the sampler itself.
        count: Name of the setting there that is ``responses``; empty where there is none.
    """

    origin: str
    responses: int
    views: int = 1
    update_on: UpdateOn = "sampled"
    beta: float = 0.0
    intervention: InterventionConfig | None = None
    rewords: bool = False
    needs_others: bool = False
    offsets: bool = False
    needs_oracle: bool = False
    path: str = ""
    count: str = ""

    def setting(self, name: str) -> str:
        """Return the path of one of its settings, as ``--set`` takes it: ``sampler.intervention``."""
        return ".".join(filter(None, ("sampler", self.path, name)))


@dataclass(frozen=True, slots=True)
class OwnLoopOnly:
    """A part of a sampler, or one of its settings, that only saei's own loop can follow.

    Attributes:
        path: Where it stands, dotted, below the sampler's; empty for the sampler itself.
        reason: Why TRL cannot, as a part of a sentence: ``TRL trains every token of a response``.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What a sampler does in every step, for code that has to know it in advance whatever the sampler's class is.

    Attributes:
        arms: The clean one first.
        needs_supply: Path below the sampler's, and name, of each part that cannot do without ``Supply``.
        own_loop_only: What else TRL cannot follow, and why.
        rounds: How often groups may be drawn in a step, at most.
        pooled: Whether what is drawn for a group depends on the step's other groups, those of other processes included.
        prefixes: Whether responses begin with given tokens, which decoders elsewhere do not continue.
        untouched: The possible reasons to leave groups alone; metrics count each at every step, 0 included.
        lacking: Those of them that say that a group's view has nothing to move, or that nothing stands in for what the
            attack did to it. A run stops where they are too many.
        dropped: The guards' possible reasons to drop responses; likewise.
    """

    arms: tuple[PlannedArm, ...]
    needs_supply: tuple[tuple[str, str], ...] = ()
    own_loop_only: tuple[OwnLoopOnly, ...] = ()
    rounds: int = 1
    pooled: bool = False
    prefixes: bool = False
    untouched: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def group_size(self) -> int:
        """Responses per group, whatever the views."""
        return sum(arm.responses for arm in self.arms)

    @property
    def intervening(self) -> tuple[PlannedArm, ...]:
        """The arms with an intervention."""
        return tuple(arm for arm in self.arms if arm.intervention is not None)

    def below(self, path: str) -> SamplingPlan:
        """Return the plan of the same sampler inside another one, which has its settings at this path."""
        return replace(
            self,
            arms=tuple(replace(arm, path=_joined(path, arm.path)) for arm in self.arms),
            needs_supply=tuple((_joined(path, where), name) for where, name in self.needs_supply),
            own_loop_only=tuple(replace(each, path=_joined(path, each.path)) for each in self.own_loop_only),
        )

    def settings_for(self, responses: int) -> list[str]:
        """Return the assignments, for ``--set``, that change the group size and keep the arms' proportions.

        Raises:
            ConfigError: If an arm's number of responses is no setting.
        """
        if not all(arm.count for arm in self.arms):
            raise ConfigError(
                "Only a sampler whose plan names the settings of its numbers of responses can be given others.",
                reason=f"Its plan has {', '.join(f'{arm.responses} {arm.origin}' for arm in self.arms)}.",
                remedy="Set the sampler's own fields by --set.",
            )
        before, total = 0, self.group_size
        assignments = []
        for arm in self.arms:
            # Rounded up, so that of halves the clean one is the larger.
            start, end = (-(-responses * n // total) for n in (before, before + arm.responses))
            assignments.append(f"{arm.setting(arm.count)}={end - start}")
            before += arm.responses
        return assignments


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


class Sampler(Strategy, ABC):
    """Draws groups. To add one, implement ``draw`` and ``plan``."""

    kind: ClassVar[str] = "sampler"

    @abstractmethod
    def plan(self) -> SamplingPlan:
        """Return what the sampler does in every step; always the same."""

    @abstractmethod
    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per clean view, each with as many responses as planned.

        The groups stand in the order of their views: the given ones, then those from ``supply.more``.

        Args:
            views: Clean views, of which a process may have none.
            step: The policy and the circumstances of the step.
            supply: Further examples, grades, totals over processes; None where there is none, if the plan needs none.
        """

    @property
    def group_size(self) -> int:
        """Responses per group, whatever the views."""
        return self.plan().group_size

    def check(self, policy: Policy, views: Sequence[View]) -> None:
        """Check, before any long work, that the sampler works with this policy.

        Args:
            policy: The policy.
            views: Some clean views, one at least.

        Raises:
            SaeiError: If it does not.
        """

    def lacks(self, view: View) -> str | None:
        """Return in a word why nothing of a view can be moved, None if something can or the sampler moves nothing."""
        return None

    def example_lacks(self, example: Example) -> str | None:
        """Return the same of an example, as far as that is known without a policy."""
        return None

    def guard(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Return for each of the step's scored groups the responses that are not trained on, and why."""
        return [{} for _ in scored]


def clean_arm(responses: int, count: str) -> PlannedArm:
    """Return the arm of the clean view, whose number of responses is the sampler's setting ``count``."""
    return PlannedArm(CLEAN, responses, count=count)


def checked_drops(strategy: Strategy, scored: Sequence[ScoredGroup], dropped: Sequence[Drops]) -> Sequence[Drops]:
    """Return what a sampler or a guard drops, checked: one mapping per group, of responses that exist.

    Raises:
        TrainingError: If that is not so, since groups would silently vanish from training.
    """
    sizes = [len(group.grades) for group in scored]
    if len(dropped) != len(sizes):
        problem = f"{len(dropped)} for {len(sizes)} groups"
    else:
        unknown = {n for drops, size in zip(dropped, sizes, strict=True) for n in drops if not 0 <= n < size}
        problem = f"response {min(unknown)}" if unknown else ""
    if problem:
        raise TrainingError(
            "For each scored group there is one mapping from the numbers of its responses to reasons.",
            reason=f"'{strategy.name()}' returned {problem}.",
            remedy="Return an empty mapping for a group that is kept whole.",
        )
    return dropped
