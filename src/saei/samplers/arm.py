"""An arm: the responses of a group that come from the views of one intervention; its settings, and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pydantic import Field, model_validator

from saei.config.strategy import Section, StrategyConfig
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.samplers.base import MOST_RESPONSES, PlannedArm, StepContext, Supply, UpdateOn, checked_drops
from saei.types import Drops, Response, ScoredGroup, View, ViewWeight


class ArmConfig(Section):
    """Fields of an arm, except its number of responses.

    Attributes:
        views: Intervened views per group, which share the arm's responses. Several differ only if the selector or the
            attack is random; if neither is, one view is made.
        intervention: How those views are made.
        update_on: View of the update. ``sampled``: each response under the view it was drawn from, the literal
            reading of the paper (assumed). ``clean``: all under the clean view, as NoisyRollout (arXiv 2504.13055).
            ``perturbed``: the clean responses, too, under the (first) intervened view.
        beta: Exponent of the view weight; 0 ignores the gap between the views, 1 corrects it fully.
        weight_cap: Largest view weight.
    """

    views: int = Field(default=1, ge=1, le=MOST_RESPONSES)
    intervention: InterventionConfig = InterventionConfig()
    update_on: UpdateOn = "sampled"
    beta: float = Field(default=0.0, ge=0.0, le=100.0)
    weight_cap: float = Field(default=2.0, gt=0.0, le=1e6)

    count: ClassVar[str]
    """The field that is the arm's number of responses."""
    path: ClassVar[str] = ""
    """What stands before a field's name in error messages; empty where it depends on the arm's name."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        """Refuse settings without an effect, and views without a response."""
        responses = getattr(self, self.count)
        if self.views > responses:
            raise ValueError(
                f"Each intervened view answers at least once: {self.views} views share {responses} "
                f"responses. Lower views, or raise {self.count}."
            )
        if self.beta and self.update_on == "sampled":
            raise ValueError(
                "beta weighs responses that are trained under another view than the one they were drawn from, "
                f"and with update_on sampled there are none. Set {self.path}update_on to clean or perturbed, or beta "
                "to 0."
            )
        if not self.beta and self.weight_cap != type(self).model_fields["weight_cap"].default:
            raise ValueError("weight_cap bounds the view weight, which is 1 where beta is 0. Set one, too.")
        return self

    def arm(self, origin: str | None = None) -> Arm:
        """Return the arm at work.

        Args:
            origin: The arm's name among several arms, which is the origin of its views; None for a sampler's only arm,
                whose attack names the origin.
        """
        intervention = Intervention(self.intervention)
        plan = PlannedArm(
            origin=intervention.origin if origin is None else origin,
            responses=getattr(self, self.count),
            views=self.views,
            update_on=self.update_on,
            beta=self.beta,
            intervention=self.intervention,
            rewords=intervention.rewords,
            needs_others=intervention.control is not None and intervention.control.needs_others,
            offsets=intervention.offsets,
            needs_oracle=intervention.needs_oracle,
            path="" if origin is None else f"arms.{origin}",
            count=self.count,
        )
        return Arm(plan, ViewWeight(self.beta, self.weight_cap), intervention, origin)


# Pydantic takes the fields of the last base first. The numbers of responses are bases of their own so that users see
# them above the fields of ``ArmConfig``.
class _ArmResponses(Section):
    """The number of an arm's responses.

    Attributes:
        n: Responses from the arm's views.
    """

    n: int = Field(default=6, ge=1, le=MOST_RESPONSES)


class NamedArmConfig(ArmConfig, _ArmResponses):
    """Responses from views that one intervention makes, as one of several arms."""

    count: ClassVar[str] = "n"


class _CleanAndArmResponses(StrategyConfig):
    """The numbers of clean and of intervened responses.

    Attributes:
        n_clean: Responses from the clean view; the attack's criterion is taken over these.
        n_adversarial: Responses from intervened views.
    """

    n_clean: int = Field(default=6, ge=1, le=MOST_RESPONSES)
    n_adversarial: int = Field(default=6, ge=1, le=MOST_RESPONSES)


class OneArmConfig(ArmConfig, _CleanAndArmResponses):
    """Fields of the samplers that mix clean responses with those of one arm."""

    count: ClassVar[str] = "n_adversarial"
    path: ClassVar[str] = "sampler."


@dataclass(frozen=True, eq=False, slots=True)
class Arm:
    """An arm at work.

    Attributes:
        plan: What it will do.
        weight: How the gap between views weighs its responses.
        intervention: Makes its views.
        name: Its name among several arms, which is its views' origin; None for the only one of a sampler.
    """

    plan: PlannedArm
    weight: ViewWeight
    intervention: Intervention
    name: str | None = None

    def intervene(
        self, views: Sequence[View], clean: Sequence[Sequence[Response]], step: StepContext, supply: Supply | None
    ) -> list[list[Outcome]]:
        """Return the outcomes for each group: one for each of the arm's views, and at least one."""
        made = self.intervention.apply_repeatedly(views, clean, step, supply, times=self.plan.views)
        return [[self._named(outcome) for outcome in outcomes] for outcomes in made]

    def _named(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose view has the arm's name as its origin."""
        if self.name is None or outcome.untouched:
            return outcome
        return replace(outcome, view=replace(outcome.view, origin=self.name))

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Return what its guard drops: a named arm's only its own responses, any other's all that it names."""
        guard = self.intervention.guard
        dropped = checked_drops(guard, scored, guard.drop(scored, step, supply))
        if self.name is None:
            return list(dropped)
        return [
            {n: reason for n, reason in drops.items() if group.group.origin(n) == self.name}
            for group, drops in zip(scored, dropped, strict=True)
        ]
