"""The intervention: from clean views and their responses to views on which the policy explores more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from pydantic import Field, model_validator

from saei.attacks.base import Attack
from saei.config.registry import (
    AttackField,
    CriterionField,
    GateField,
    GuardField,
    SelectorField,
    StrengthField,
    SurfaceField,
    load,
)
from saei.config.strategy import Section, Strategy
from saei.entropy.selectors.base import Selector
from saei.errors import ConfigError
from saei.interventions.base import Criterion, Gate, Guard, Strength, Surface
from saei.interventions.context import StepContext, Supply
from saei.interventions.group_criterion import GroupCriterion
from saei.interventions.point import OpenViews
from saei.policy import Policy
from saei.policy.statistics.needs import check_needs
from saei.runtime.seeds import GroupSources
from saei.types import Distance, Response, View, ViewRecord


class InterventionConfig(Section):
    """The slots of an intervention.

    Attributes:
        selector: Which tokens of the clean responses the criterion looks at.
        criterion: What the attack raises there.
        surfaces: What of the view the attack moves; None for what it is made for first, ``pixels``. A view that lacks
            all of these is left alone.
        attack: How it moves them.
        strength: Factor on steps and radii over training.
        gate: Which groups are attacked.
        guard: Which responses of scored groups are not trained on.
        reselect: Choose the tokens again from every image that the attack visits; otherwise the first choice stays.
        micro_groups: Groups attacked at once, None for all: fewer take less memory.
    """

    selector: SelectorField = "middle-third"  # type: ignore[assignment]  # names are resolved by the validator
    criterion: CriterionField = "entropy"  # type: ignore[assignment]
    surfaces: tuple[SurfaceField, ...] | None = Field(default=None, min_length=1)
    attack: AttackField = "pgd"  # type: ignore[assignment]
    strength: StrengthField = "constant"  # type: ignore[assignment]
    gate: GateField = "always"  # type: ignore[assignment]
    guard: GuardField = "none"  # type: ignore[assignment]
    reselect: bool = False
    micro_groups: int | None = Field(default=None, ge=1, le=65_536)

    @model_validator(mode="after")
    def _something_to_steer(self) -> Self:
        if self.strength.strategy.reads_control and getattr(self.attack, "steps", None) == 0:
            raise ValueError(
                f"The strength '{self.strength.type}' scales an attack's steps, and attack.steps is 0. Raise it, or "
                "choose the strength `constant`."
            )
        return self


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What became of one group.

    Attributes:
        view: The view to draw the remaining responses from: the clean one if the group was left alone.
        untouched: Why it was left alone: ``no-image``, ``empty`` (nothing to select) or the gate's reason; else None.
        metrics: Entropy summary of the selection, the criterion where the attack began, and how far it moved.
        record: How the view was made, None for the clean one.
    """

    view: View
    untouched: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: ViewRecord | None = None


class Intervention:
    """Applies selector, criterion and attack to clean groups.

    Args:
        config: The slots.

    Raises:
        ConfigError: If the attack cannot move a surface, or nothing fills a need of selector, criterion, gate or guard.
    """

    def __init__(self, config: InterventionConfig | None = None) -> None:
        self.config = config or InterventionConfig()
        self.selector: Selector = self.config.selector.build()
        self.criterion: Criterion = self.config.criterion.build()
        self.attack: Attack = self.config.attack.build()
        self.strength: Strength = self.config.strength.build()
        self.gate: Gate = self.config.gate.build()
        self.guard: Guard = self.config.guard.build()
        for part, grad in ((self.selector, False), (self.criterion, True), (self.gate, False), (self.guard, False)):
            check_needs(part.needs, f"The {part.kind} '{part.name()}'", policies=("current",), grad=grad)
        self.surfaces = self._build_surfaces()

    def _build_surfaces(self) -> tuple[Surface, ...]:
        """Return what the attack moves."""
        by_default = [load("surface", name).Config.model_validate({}) for name in self.attack.moves]
        surfaces: list[Surface] = [config.build() for config in self.config.surfaces or by_default]
        names = [surface.name() for surface in surfaces]
        unable = ", ".join(surface.name() for surface in surfaces if surface.space not in self.attack.spaces)
        if unable:
            raise ConfigError(
                "An attack moves surfaces in the spaces that it is made for.",
                reason=f"'{self.attack.name()}' moves in {', '.join(sorted(self.attack.spaces))}, not {unable}.",
                remedy="Choose another attack; `saei list attack` has them.",
            )
        if len(set(names)) < len(names):
            raise ConfigError("Each surface is moved once.", reason=f"intervention.surfaces is {', '.join(names)}.")
        return tuple(surfaces)

    def parts(self) -> Mapping[str, Strategy]:
        """Return the slots by name."""
        return {name: getattr(self, name) for name in ("selector", "criterion", "attack", "strength", "gate", "guard")}

    def check(self, policy: Policy, view: View) -> None:
        """Attack one view with a response of one token, so that errors come before any long work.

        Raises:
            ModelError: If no gradient reaches the pixels.
        """
        if self._lacks_all(view) is None:
            zero = torch.zeros(1, device=policy.device)
            response = Response(policy.eos_ids[:1], "", zero, zero, truncated=False)
            step = StepContext(policy, 0.0, GroupSources(0, "check"))
            self._attack([view], [[response]], step)

    def apply(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None = None,
    ) -> list[Outcome]:
        """Return for each clean view the view that the remaining responses are drawn from.

        Args:
            views: One clean view per group.
            responses: For each view the responses drawn from it.
            step: The policy that drew them, and the circumstances.
            supply: For gates that use it; None if the gate does not.
        """
        return [outcomes[0] for outcomes in self.apply_repeatedly(views, responses, step, supply, times=1)]

    def apply_repeatedly(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
        *,
        times: int,
    ) -> list[list[Outcome]]:
        """Return several outcomes for each clean view, or a single one if further ones would be the same.

        They would be the same if the group is left alone, or if selector and attack drew nothing at random. The latter
        shows in the state of the group's source of randomness, which has not changed then.

        Args:
            views: One clean view per group.
            responses: For each view the responses drawn from it.
            step: The policy that drew them, and the circumstances.
            supply: For gates that use it; None if the gate does not.
            times: Most outcomes of each group.
        """
        reasons = self._reasons_to_leave_alone(views, responses, step, supply)
        outcomes = [[Outcome(view, reason)] if reason else [] for view, reason in zip(views, reasons, strict=True)]
        moving = [number for number, reason in enumerate(reasons) if reason is None]
        for _ in range(times):
            before = step.states([views[number] for number in moving])
            self._attack_in_batches(moving, views, responses, step, outcomes)
            after = step.states([views[number] for number in moving])
            moving = [number for number, old, new in zip(moving, before, after, strict=True) if old != new]
        return outcomes

    def _reasons_to_leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        reasons: list[str | None] = [
            self._lacks_all(view) or (None if any(map(len, drawn)) else "empty")
            for view, drawn in zip(views, responses, strict=True)
        ]
        movable = [number for number, reason in enumerate(reasons) if reason is None]
        # Called even if no group is movable here: a gate may use totals over processes, which need every process.
        verdicts = self.gate.leave_alone(
            [views[number] for number in movable], [responses[number] for number in movable], step, supply
        )
        for number, reason in zip(movable, verdicts, strict=True):
            reasons[number] = reason
        return reasons

    def _lacks_all(self, view: View) -> str | None:
        """Return why a view has nothing to move, None if it has one of the surfaces."""
        reasons = [surface.lacks(view) for surface in self.surfaces]
        return None if None in reasons else reasons[0]

    def _attack_in_batches(
        self,
        numbers: Sequence[int],
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        outcomes: Sequence[list[Outcome]],
    ) -> None:
        """Attack some of the groups, ``micro_groups`` at once, and add to their outcomes."""
        size = self.config.micro_groups or max(1, len(numbers))
        if not self.attack.jointly:
            size = 1
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            attacked = self._attack([views[n] for n in batch], [responses[n] for n in batch], step)
            for number, outcome in zip(batch, attacked, strict=True):
                outcomes[number].append(outcome)

    def _attack(
        self, views: Sequence[View], responses: Sequence[Sequence[Response]], step: StepContext
    ) -> list[Outcome]:
        """Attack groups together and return what became of each."""
        scale = self.strength.at(step.progress)
        opened = OpenViews(self.surfaces, step.policy, views, scale=scale)
        criterion = GroupCriterion(
            self.criterion,
            self.selector,
            reselect=self.config.reselect,
            opened=opened,
            # Empty responses have no token to select.
            responses=[[response for response in drawn if len(response)] for drawn in responses],
            step=step,
        )
        point = opened.start
        if not all(selection.empty for selection in criterion.selections):
            point = self.attack.attack(
                criterion,
                point,
                space=opened.space,
                progress=step.progress,
                generators=step.generators(views),
            )
        step.policy.forget_states()  # those under the clean view, which divergences used; the update needs none
        outcomes = []
        moved, distances = opened.moved(point, self.attack.origin), opened.distances(point)
        for number, view in enumerate(views):
            if criterion.selections[number].empty:
                outcomes.append(Outcome(view, "empty"))
                continue
            seed = step.generator_of(view).initial_seed()
            record = ViewRecord(seed, scale, distances[number], criterion.trace(number))
            metrics = criterion.metrics(number) | self._distance_metrics(distances[number])
            metrics |= {"strength": scale, **self.strength.metrics()}
            outcomes.append(Outcome(moved[number], metrics=metrics, record=record))
        return outcomes

    def _distance_metrics(self, distances: Mapping[str, Distance]) -> dict[str, float]:
        """Return how far a view has moved; of several surfaces under their names."""
        metrics: dict[str, float] = {}
        for surface, distance in distances.items():
            prefix = f"{surface}/" if len(self.surfaces) > 1 else ""
            metrics |= {f"{prefix}moved": distance.share, f"{prefix}largest_change": distance.largest}
        return metrics
