"""The base of the samplers with arms: clean and intervened responses in one group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions import Outcome
from saei.policy import Policy
from saei.samplers.arm import Arm
from saei.samplers.base import Sampler, SamplingPlan, StepContext, Supply, clean_arm
from saei.types import Drops, Example, Group, Response, ScoredGroup, View, ViewWeight


@dataclass(frozen=True, eq=False, slots=True)
class _ArmView:
    """A view of a group that an arm draws responses from.

    Attributes:
        arm: The arm.
        outcome: The view, and how the arm made it. It is the clean view where the arm left the group alone.
        count: How many of the arm's responses are drawn from it.
    """

    arm: Arm
    outcome: Outcome
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """Responses of a group that were drawn from one view.

    Attributes:
        responses: Drawn from it.
        sampled_from: The view's number in the group.
        updated_on: The number of the view that they are trained under.
        weight: How the gap between the two views weighs them.
    """

    responses: Sequence[Response]
    sampled_from: int
    updated_on: int
    weight: ViewWeight


class ArmSampler(Sampler):
    """Some responses from the clean view, the others from views that interventions made from it.

    Where an intervention leaves a group alone, that arm's responses are drawn from the clean view, so that the number
    of responses stays the same; metrics count such groups. To add one, implement ``make_arms``.
    """

    n_clean: int
    """Responses from the clean view; the criteria of the attacks are taken over these."""

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.n_clean: int = self.config.n_clean
        self.arms = self.make_arms()

    @abstractmethod
    def make_arms(self) -> tuple[Arm, ...]:
        """Return the arms, one at least."""

    def plan(self) -> SamplingPlan:
        """Return the clean arm and the others."""
        needs = [
            (f"{arm.plan.path}.intervention.{slot}".lstrip("."), part.name())
            for arm in self.arms
            for slot, part in (
                ("gate", arm.intervention.gate),
                ("guard", arm.intervention.guard),
                ("control", arm.intervention.control),
            )
            if part is not None and part.needs_supply
        ]
        return SamplingPlan(
            arms=(clean_arm(self.n_clean, "n_clean"), *(arm.plan for arm in self.arms)),
            needs_supply=tuple(needs),
            untouched=tuple(reason for arm in self.arms for reason in arm.intervention.reasons),
            lacking=tuple(reason for arm in self.arms for reason in arm.intervention.lacking),
            dropped=tuple(reason for arm in self.arms for reason in arm.intervention.guard.reasons),
        )

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view, clean responses first."""
        clean = step.sample(views, [self.n_clean] * len(views))
        with step.phase("attack"):
            outcomes_of_arms = [arm.intervene(views, clean, step, supply) for arm in self.arms]
        arm_views = [self._arm_views(outcomes_by_arm) for outcomes_by_arm in zip(*outcomes_of_arms, strict=True)]
        # One call draws from the views of all arms and groups together.
        in_order = [arm_view for group_arm_views in arm_views for arm_view in group_arm_views]
        drawn = iter(step.sample([each.outcome.view for each in in_order], [each.count for each in in_order]))
        return [
            self._group(view, clean_responses, [(arm_view, next(drawn)) for arm_view in group_arm_views])
            for view, clean_responses, group_arm_views in zip(views, clean, arm_views, strict=True)
        ]

    def _arm_views(self, outcomes_by_arm: Sequence[Sequence[Outcome]]) -> list[_ArmView]:
        """Return the views of one group that the arms draw from; the views of an arm share its responses."""
        arm_views = []
        for arm, outcomes in zip(self.arms, outcomes_by_arm, strict=True):
            counts = nearly_equal_parts(arm.plan.responses, len(outcomes))
            arm_views += [_ArmView(arm, outcome, count) for outcome, count in zip(outcomes, counts, strict=True)]
        return arm_views

    def _group(
        self, clean_view: View, clean: Sequence[Response], drawn: Sequence[tuple[_ArmView, list[Response]]]
    ) -> Group:
        """Return the group of a clean view.

        Args:
            clean_view: The group's first view.
            clean: The clean responses.
            drawn: The arms' views, in the order of the arms, each with the responses drawn from it.
        """
        moved = [(arm_view, responses) for arm_view, responses in drawn if not arm_view.outcome.untouched]
        # An arm that left the group alone drew from the clean view, so that groups keep their size.
        of_untouched = [response for each, responses in drawn if each.outcome.untouched for response in responses]

        # The clean part comes first; then one part per moved view, whose number counts from 1.
        parts = [self._clean_part([*clean, *of_untouched], [arm_view.arm for arm_view, _ in moved])]
        for number, (arm_view, responses) in enumerate(moved, start=1):
            arm = arm_view.arm
            updated_on = 0 if arm.plan.update_on == "clean" else number
            parts.append(_Part(responses, sampled_from=number, updated_on=updated_on, weight=arm.weight))

        outcomes = [arm_view.outcome for arm_view, _ in drawn]
        return Group(
            example=clean_view.example,
            views=(clean_view, *(arm_view.outcome.view for arm_view, _ in moved)),
            responses=tuple(response for part in parts for response in part.responses),
            sampled_from=tuple(part.sampled_from for part in parts for _ in part.responses),
            updated_on=tuple(part.updated_on for part in parts for _ in part.responses),
            view_weights=tuple(part.weight for part in parts for _ in part.responses),
            untouched=None if moved else outcomes[0].untouched,
            metrics=_metrics([arm_view for arm_view, _ in drawn]),
            records=tuple(outcome.record for outcome in outcomes if outcome.record is not None),
        )

    @staticmethod
    def _clean_part(responses: Sequence[Response], arms: Sequence[Arm]) -> _Part:
        """Return the responses to the clean view, trained under it unless an arm has ``update_on: perturbed``.

        Args:
            responses: The responses.
            arms: For each moved view its arm; the first such arm's first view counts.
        """
        for number, arm in enumerate(arms, start=1):
            if arm.plan.update_on == "perturbed":
                return _Part(responses, sampled_from=0, updated_on=number, weight=arm.weight)
        return _Part(responses, sampled_from=0, updated_on=0, weight=ViewWeight())

    def check(self, policy: Policy, views: Sequence[View]) -> None:
        """Find out whether each attack reaches what it moves."""
        for arm in self.arms:
            arm.intervention.check(policy, views)

    def lacks(self, view: View) -> str | None:
        """Return why no arm has anything to move."""
        reasons = [arm.intervention.lacks(view) for arm in self.arms]
        return None if None in reasons else reasons[0]

    def example_lacks(self, example: Example) -> str | None:
        """Return why no arm has anything to move in an example."""
        reasons = [arm.intervention.example_lacks(example) for arm in self.arms]
        return None if None in reasons else reasons[0]

    def guard(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Return what the arms' guards drop; where two drop the same response, the first one's reason counts."""
        dropped: list[dict[int, str]] = [{} for _ in scored]
        for arm in self.arms:
            for group_drops, arm_drops in zip(dropped, arm.drop(scored, step, supply), strict=True):
                group_drops |= {n: reason for n, reason in arm_drops.items() if n not in group_drops}
        return [*dropped]

    def parts(self) -> Mapping[str, Strategy]:
        """Return the interventions' slots; of named arms under their names."""
        return {
            slot if arm.name is None else f"{arm.name}.{slot}": part
            for arm in self.arms
            for slot, part in arm.intervention.parts().items()
        }


def nearly_equal_parts(total: int, parts: int) -> list[int]:
    """Split a number into nearly equal parts, larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _metrics(arm_views: Sequence[_ArmView]) -> dict[str, float]:
    """Return the means over each arm's views; named arms prefix theirs and add whether they left the group alone."""
    metrics: dict[str, float] = {}
    for arm in dict.fromkeys(arm_view.arm for arm_view in arm_views):
        outcomes = [arm_view.outcome for arm_view in arm_views if arm_view.arm is arm]
        attacked = [outcome.metrics for outcome in outcomes if not outcome.untouched]
        prefix = "" if arm.name is None else f"{arm.name}/"
        if attacked:
            means = {name: sum(each[name] for each in attacked) / len(attacked) for name in attacked[0]}
            metrics |= {f"{prefix}{name}": value for name, value in means.items()}
        if arm.name is not None:
            metrics[f"{prefix}untouched"] = float(not attacked)
    return metrics
