"""An arm: the responses of a group that come from the views of one intervention; its settings, and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field, model_validator

from saei.config.strategy import Section, StrategyConfig
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.samplers.base import MOST_RESPONSES, PlannedArm, StepContext, Supply, UpdateOn, checked_drops
from saei.types import Drops, Response, ScoredGroup, View, ViewWeight


class Arm(Section):
    """Responses from views that one intervention makes.

    Attributes:
        n: How many.
        views: Intervened views per group, which share them; more than one differ only where the selector or the
            attack is random, and where neither is, one is made for all.
        intervention: How those views are made.
        update_on: View of the update. ``sampled``: each response under the view it was drawn from, the literal
            reading of the paper (assumed). ``clean``: all under the clean view, as NoisyRollout (arXiv 2504.13055).
            ``perturbed``: the clean responses, too, under the (first) intervened view.
        beta: Exponent of the view weight; 0 ignores the gap between the views, 1 corrects it fully.
        weight_cap: Largest view weight.
    """

    n: int = Field(default=6, ge=1, le=MOST_RESPONSES)
    views: int = Field(default=1, ge=1, le=MOST_RESPONSES)
    intervention: InterventionConfig = InterventionConfig()
    update_on: UpdateOn = "sampled"
    beta: float = Field(default=0.0, ge=0.0, le=100.0)
    weight_cap: float = Field(default=2.0, gt=0.0, le=1e6)

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        check_arm(self, counted="n", path="")
        return self


def check_arm(arm: Arm | OneArmConfig, *, counted: str, path: str) -> None:
    """Check an arm's settings against each other, for validators of configs.

    Args:
        arm: The settings.
        counted: The one that is the number of responses.
        path: Of the settings, with a dot behind it, for errors.

    Raises:
        ValueError: If a view would have no response, or a setting no effect.
    """
    responses = getattr(arm, counted)
    if arm.views > responses:
        raise ValueError(
            f"Each intervened view answers at least once: {arm.views} views share {responses} "
            f"responses. Lower views, or raise {counted}."
        )
    if arm.beta and arm.update_on == "sampled":
        raise ValueError(
            "beta weighs responses that are trained under another view than the one they were drawn from, "
            f"and with update_on sampled there are none. Set {path}update_on to clean or perturbed, or beta "
            "to 0."
        )
    if not arm.beta and arm.weight_cap != type(arm).model_fields["weight_cap"].default:
        raise ValueError("weight_cap bounds the view weight, which is 1 where beta is 0. Set one, too.")


class OneArmConfig(StrategyConfig):
    """Fields of the samplers that mix clean responses with those of one arm.

    Attributes:
        n_clean: Responses from the clean view; the attack's criterion is taken over these.
        n_adversarial: Responses from intervened views.
        views: Intervened views per group, which share ``n_adversarial``; more than one differ only where the
            selector or the attack is random, and where neither is, one is made for all.
        intervention: How those views are made.
        update_on: View of the update. ``sampled``: each response under the view it was drawn from, the
            literal reading of the paper (assumed). ``clean``: all under the clean view, as NoisyRollout
            (arXiv 2504.13055). ``perturbed``: the clean responses, too, under the (first) intervened view.
        beta: Exponent of the view weight; 0 ignores the gap between the views, 1 corrects it fully.
        weight_cap: Largest view weight.
    """

    n_clean: int = Field(default=6, ge=1, le=MOST_RESPONSES)
    n_adversarial: int = Field(default=6, ge=1, le=MOST_RESPONSES)
    views: int = Field(default=1, ge=1, le=MOST_RESPONSES)
    intervention: InterventionConfig = InterventionConfig()
    update_on: UpdateOn = "sampled"
    beta: float = Field(default=0.0, ge=0.0, le=100.0)
    weight_cap: float = Field(default=2.0, gt=0.0, le=1e6)

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        check_arm(self, counted="n_adversarial", path="sampler.")
        return self


@dataclass(frozen=True, eq=False, slots=True)
class ArmSampler:
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
        """Return what becomes of each group's views, of which there are one at least."""
        made = self.intervention.apply_repeatedly(views, clean, step, supply, times=self.plan.views)
        return [[self._named(outcome) for outcome in outcomes] for outcomes in made]

    def _named(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose view has the arm's name as its origin."""
        if self.name is None or outcome.untouched:
            return outcome
        return replace(outcome, view=replace(outcome.view, origin=self.name))

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Return what its guard drops: of several arms' responses its own, else any of the group's."""
        guard = self.intervention.guard
        dropped = checked_drops(guard, scored, guard.drop(scored, step, supply))
        if self.name is None:
            return list(dropped)
        return [
            {n: reason for n, reason in drops.items() if one.group.origin(n) == self.name}
            for one, drops in zip(scored, dropped, strict=True)
        ]


def one_arm(config: OneArmConfig) -> tuple[ArmSampler, ...]:
    """Return the only arm of a sampler with these settings."""
    intervention = Intervention(config.intervention)
    plan = PlannedArm(
        origin=intervention.origin,
        responses=config.n_adversarial,
        views=config.views,
        update_on=config.update_on,
        beta=config.beta,
        intervention=config.intervention,
        count="n_adversarial",
    )
    return (ArmSampler(plan, ViewWeight(config.beta, config.weight_cap), intervention),)
