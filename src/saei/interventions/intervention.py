"""The intervention: from clean views and their responses to views on which the policy explores more.

One class, the interface of the package. The file is long for what its methods promise, and because every one of them
reads the same slots: what an attack, a measure or a control does is in the files beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from saei.attacks.base import Attack, Point
from saei.attacks.result import check_result
from saei.config.registry import load
from saei.config.strategy import Strategy
from saei.entropy.selectors.all import All
from saei.entropy.selectors.base import Selector
from saei.errors import ConfigError
from saei.interventions.base import Criterion, Gate, Guard, Strength, Surface
from saei.interventions.context import Oracle, StepContext, Supply
from saei.interventions.control import Control, under_control
from saei.interventions.group_criterion import GroupCriterion, TokenChooser
from saei.interventions.intervention_config import InterventionConfig
from saei.interventions.measure import measured
from saei.interventions.outcome import UNANSWERABLE, Outcome, no_oracle, with_its_answer
from saei.interventions.point import OpenViews
from saei.policy import Policy
from saei.policy.statistics.needs import check_needs
from saei.runtime.seeds import GroupSources
from saei.types import NO_IMAGE, UNTOUCHED, Distance, Example, Response, View, ViewRecord
from saei.views import needs_picture


class Intervention:
    """Applies selector, criterion, attack and control to clean groups.

    Args:
        config: The slots.

    Raises:
        ConfigError: If attack or control cannot move a surface, or nothing fills a need of selector, criterion, gate
            or guard.
    """

    def __init__(self, config: InterventionConfig | None = None) -> None:
        self.config = config or InterventionConfig()
        self.selector: Selector = self.config.selector.build()
        self.criterion: Criterion = self.config.criterion.build()
        self.attack: Attack = self.config.attack.build()
        self.control: Control | None = self.config.control.build() if self.config.control else None
        self.strength: Strength = self.config.strength.build()
        self.gate: Gate = self.config.gate.build()
        self.guard: Guard = self.config.guard.build()
        for part, grad in ((self.selector, False), (self.criterion, True), (self.gate, False), (self.guard, False)):
            check_needs(part.needs, f"The {part.kind} '{part.name()}'", policies=("current",), grad=grad)
        self.surfaces = self._build_surfaces()
        self._needs_picture = needs_picture(self.selector.needs | self.criterion.needs | self.gate.needs)

    def _build_surfaces(self) -> tuple[Surface, ...]:
        """Return what the attack moves."""
        by_default = [load("surface", name).Config.model_validate({}) for name in self.attack.moves]
        surfaces: list[Surface] = [config.build() for config in self.config.surfaces or by_default]
        names = [surface.name() for surface in surfaces]
        for mover in (self.attack, self.control):
            unable = [s.name() for s in surfaces if mover is not None and s.space not in mover.spaces]
            if mover is not None and unable:
                raise ConfigError(
                    f"{mover.kind.capitalize()}s move surfaces in the spaces that they are made for.",
                    reason=f"'{mover.name()}' moves in {', '.join(sorted(mover.spaces))}, not {', '.join(unable)}.",
                    remedy=f"Choose another {mover.kind}; `saei list {mover.kind}` has them.",
                )
        if len(set(names)) < len(names):
            raise ConfigError("Each surface is moved once.", reason=f"intervention.surfaces is {', '.join(names)}.")
        if any(s.replaces_question for s in surfaces) and any(s.needs_question for s in surfaces):
            raise ConfigError(
                "A question is reworded, or its tokens are moved, not both.",
                reason=f"The surfaces are {', '.join(names)}.",
                remedy="Leave one of them out.",
            )
        return tuple(surfaces)

    def parts(self) -> Mapping[str, Strategy]:
        """Return the slots by name."""
        slots = ("selector", "criterion", "attack", "strength", "gate", "guard")
        parts: dict[str, Strategy] = {name: getattr(self, name) for name in slots}
        return parts | ({"control": self.control} if self.control else {})

    @property
    def origin(self) -> str:
        """Origin of the views that it makes."""
        return self.control.origin if self.control else self.attack.origin

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it may leave groups alone, besides ``UNTOUCHED``."""
        unanswerable = [UNANSWERABLE] if self.rewords else []
        lacking = [reason for reason in self.lacking if reason not in UNTOUCHED]
        return (*lacking, *unanswerable, *self.gate.reasons)

    def check(self, policy: Policy, views: Sequence[View]) -> None:
        """Attack one view with a response of one token, so that errors come before any long work.

        Args:
            policy: The policy.
            views: Clean views, of which the first one with something to move is attacked.

        Raises:
            ModelError: If no gradient reaches what is moved.
            ConfigError: If the attack's steps have a unit that it has not.
        """
        for view in [view for view in views if self.lacks(view) is None][:1]:
            zero = torch.zeros(1, device=policy.device)
            response = Response(policy.eos_ids[:1], "", zero, zero, truncated=False)
            step = StepContext(policy, 0.0, GroupSources(0, "check"))
            (outcome,) = self._attack([view], [[response]], step)
            if outcome.untouched:  # the selector leaves this token out, and nothing was attacked
                Intervention(self.config.model_copy(update={"selector": All.Config()})).check(policy, [view])

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

        They would be the same if the group is left alone, or if selector, attack and control drew nothing at random.
        The latter shows in the state of the group's source of randomness, which has not changed then.

        Args:
            views: One clean view per group.
            responses: For each view the responses drawn from it.
            step: The policy that drew them, and the circumstances.
            supply: For gates that use it; None if the gate does not.
            times: Most outcomes of each group.

        Raises:
            ConfigError: If a surface needs the task's oracle, and the step has none.
        """
        self.check_oracle(step.answer)
        reasons = self._reasons_to_leave_alone(views, responses, step, supply)
        outcomes = [[Outcome(view, reason)] if reason else [] for view, reason in zip(views, reasons, strict=True)]
        moving = [number for number, reason in enumerate(reasons) if reason is None]
        for _ in range(times):
            before = step.states([views[number] for number in moving])
            attacked = self._attack_in_batches(moving, views, responses, step)
            if self.control is not None:
                scale = self.strength.at(step.progress)
                opened = {
                    number: OpenViews(self.surfaces, step.policy, [views[number]], scale=scale)
                    for number, outcome in attacked.items()
                    if outcome.untouched is None
                }
                attacked = under_control(self.control, attacked, opened, responses, step, supply)
            if self._measures(step):
                attacked = self._measured(attacked, step)
            for number, outcome in attacked.items():
                outcomes[number].append(outcome)
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
            self.lacks(view) or (None if any(map(len, drawn)) else "empty")
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

    def lacks(self, view: View) -> str | None:
        """Return why a view has nothing to move or nothing to compare it with, None if it has both."""
        if self._needs_picture and not view.canvases:
            return NO_IMAGE
        reasons = [surface.lacks(view) for surface in self.surfaces]
        return None if None in reasons else reasons[0]

    def example_lacks(self, example: Example) -> str | None:
        """Return why nothing of an example can be moved, as far as that is known without a policy."""
        if self._needs_picture and not example.images:
            return NO_IMAGE
        reasons = [surface.example_lacks(example) for surface in self.surfaces]
        return None if None in reasons else reasons[0]

    def _attack_in_batches(
        self,
        numbers: Sequence[int],
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
    ) -> dict[int, Outcome]:
        """Attack some of the groups, ``micro_groups`` at once, and return their outcomes by number."""
        size = self.config.micro_groups or max(1, len(numbers))
        if not self.attack.jointly:
            size = 1
        outcomes: dict[int, Outcome] = {}
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            attacked = self._attack([views[n] for n in batch], [responses[n] for n in batch], step)
            outcomes |= zip(batch, attacked, strict=True)
        return outcomes

    def _attack(
        self, views: Sequence[View], responses: Sequence[Sequence[Response]], step: StepContext
    ) -> list[Outcome]:
        """Attack groups together and return what became of each."""
        scale = self.strength.at(step.progress)
        opened = OpenViews(self.surfaces, step.policy, views, scale=scale, oracle=step.answer)
        criterion = GroupCriterion(
            self.criterion,
            self.selector,
            reselect=self.config.reselect,
            opened=opened,
            # Empty responses have no token to select.
            responses=[[response for response in drawn if len(response)] for drawn in responses],
            step=step,
            measured=self._measures(step),
        )
        point = self._moved_point(criterion, opened, step)
        if not self._measures(step):
            step.policy.forget_states()  # those under the clean view, which divergences used; the update needs none
        moved, distances = opened.moved(step.policy, point, self.attack.origin), opened.distances(point)
        return [
            Outcome(view, "empty")
            if criterion.selections[number].empty
            else self._outcome(number, moved[number], distances[number], point, criterion, opened, step)
            for number, view in enumerate(views)
        ]

    def _moved_point(self, criterion: GroupCriterion, opened: OpenViews, step: StepContext) -> Point:
        """Return where the attack moves the views, the start if nothing is selected in any group.

        Raises:
            TrainingError: If the attack breaks its contract.
        """
        if all(selection.empty for selection in criterion.selections):
            return opened.start
        point = self.attack.attack(
            criterion,
            opened.start,
            space=opened.space,
            progress=step.progress,
            generators=step.generators(opened.views),
        )
        check_result(self.attack, opened.start, point, opened.space)
        return point

    def _outcome(
        self,
        number: int,
        moved: View,
        distances: Mapping[str, Distance],
        point: Point,
        criterion: GroupCriterion,
        opened: OpenViews,
        step: StepContext,
    ) -> Outcome:
        """Return what became of one group that was attacked.

        Args:
            number: Of the group.
            moved: Its view at the point.
            distances: How far each surface of it has moved.
            point: Where the attack moved the views of all groups.
            criterion: What it raised.
            opened: The clean views.
            step: The policy and the circumstances.
        """
        clean = opened.views[number]
        view = with_its_answer(clean, moved, step.answer) if self.rewords else moved
        if view is None:
            return Outcome(clean, UNANSWERABLE)
        metrics = criterion.metrics(number) | opened.metrics(number, distances)
        metrics |= {"strength": opened.scale, **self.strength.metrics()}
        if self.rewords:
            metrics["answer_changed"] = float(view.example.answer != clean.example.answer)
        seed = step.generator_of(clean).initial_seed()
        return Outcome(
            view,
            metrics=metrics,
            record=ViewRecord(seed, opened.scale, distances, criterion.trace(number)),
            point=tuple(block for block, e in zip(point, opened.space.examples, strict=True) if e == number),
            tokens=criterion.tokens(number),
        )

    @property
    def rewords(self) -> bool:
        """Whether a view that it makes may ask something else."""
        return any(surface.rewords for surface in self.surfaces)

    @property
    def needs_oracle(self) -> bool:
        """Whether the task's oracle decides what its attack may do."""
        return any(surface.needs_oracle for surface in self.surfaces)

    def check_oracle(self, oracle: Oracle | None) -> None:
        """Refuse to work without an oracle that a surface needs.

        Raises:
            ConfigError: If there is none.
        """
        if self.needs_oracle and oracle is None:
            raise no_oracle("intervention.surfaces", "what it is applied to")

    @property
    def offsets(self) -> bool:
        """Whether a view that it makes has an offset on embeddings."""
        return any(surface.offsets for surface in self.surfaces)

    @property
    def lacking(self) -> tuple[str, ...]:
        """What it may say of a view that has nothing to move, or for which nothing stands in for the attack."""
        of_surfaces = [reason for surface in self.surfaces for reason in surface.reasons]
        of_control = self.control.reasons if self.control else ()
        return tuple(dict.fromkeys([*of_surfaces, *([NO_IMAGE] if self._needs_picture else []), *of_control]))

    def _measured(self, attacked: Mapping[int, Outcome], step: StepContext) -> dict[int, Outcome]:
        """Return the outcomes with what their attacks have changed, ``micro_groups`` at once."""
        outcomes = measured(
            self.criterion,
            list(attacked.values()),
            step,
            at_once=self.config.micro_groups,
            pooled=self.selector.pooled,
            chooser=TokenChooser(self.selector, step) if self.config.reselect else None,
        )
        return dict(zip(attacked, outcomes, strict=True))

    def _measures(self, step: StepContext) -> bool:
        """Return whether what attacks have changed is measured in a step."""
        return self.config.measure == "always" or (self.config.measure == "evaluated-steps" and step.traced)
