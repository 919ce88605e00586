"""What samplers share that mix clean and intervened responses in one group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions import Outcome
from saei.policy import Policy
from saei.samplers.arm import ArmSampler
from saei.samplers.base import Sampler, SamplingPlan, StepContext, Supply, clean_arm
from saei.types import Drops, Group, Response, ScoredGroup, View, ViewWeight


@dataclass(frozen=True, eq=False, slots=True)
class _Made:
    """A view that an arm made for a group, or left as it was.

    Attributes:
        arm: The arm.
        outcome: What became of the view.
        responses: How many of the arm's responses it gets.
    """

    arm: ArmSampler
    outcome: Outcome
    responses: int


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """Responses of a group that were drawn from one view.

    Attributes:
        responses: Drawn from it.
        sampled_from: The view's number in the group.
        updated_on: The number of the view that they are trained under.
        weight: How the gap between the two weighs them.
    """

    responses: Sequence[Response]
    sampled_from: int
    updated_on: int
    weight: ViewWeight


class Mixing(Sampler):
    """Some responses from the clean view, the others from views that interventions made from it.

    A group that an intervention leaves alone draws that arm's responses from the clean view: the budget is kept and
    the case is counted. To add one, implement ``make_arms``.
    """

    n_clean: int
    """Responses from the clean view; the criteria of the attacks are taken over these."""

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.n_clean: int = self.config.n_clean
        self.arms = self.make_arms()

    @abstractmethod
    def make_arms(self) -> tuple[ArmSampler, ...]:
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
            dropped=tuple(reason for arm in self.arms for reason in arm.intervention.guard.reasons),
        )

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view, clean responses first."""
        clean = step.sample(views, [self.n_clean] * len(views))
        with step.phase("attack"):
            made_by_arm = [arm.intervene(views, clean, step, supply) for arm in self.arms]
        made = [self._made_of_group(outcomes) for outcomes in zip(*made_by_arm, strict=True)]
        # All views of all arms and groups are drawn from together.
        in_order = [one for of_group in made for one in of_group]
        drawn = iter(step.sample([one.outcome.view for one in in_order], [one.responses for one in in_order]))
        return [
            self._group(view, clean_responses, [(one, next(drawn)) for one in of_group])
            for view, clean_responses, of_group in zip(views, clean, made, strict=True)
        ]

    def _made_of_group(self, outcomes_by_arm: Sequence[Sequence[Outcome]]) -> list[_Made]:
        """Return what the arms made of one group's clean view, with each arm's responses shared out."""
        made = []
        for arm, outcomes in zip(self.arms, outcomes_by_arm, strict=True):
            shares = nearly_equal_parts(arm.plan.responses, len(outcomes))
            made += [_Made(arm, outcome, share) for outcome, share in zip(outcomes, shares, strict=True)]
        return made

    def _group(
        self, clean_view: View, clean: Sequence[Response], drawn: Sequence[tuple[_Made, list[Response]]]
    ) -> Group:
        """Return the group of a clean view.

        Args:
            clean_view: The group's first view.
            clean: Responses to it.
            drawn: What the arms made of the view, in their order, each with the responses to it.
        """
        views, parts = [clean_view], []
        of_clean_view, clean_updated_on, clean_weight = list(clean), 0, ViewWeight()
        for made, responses in drawn:
            arm, outcome = made.arm, made.outcome
            if outcome.untouched:  # the clean view answers in its place, so that groups keep their size
                of_clean_view += responses
                continue
            number = len(views)
            views.append(outcome.view)
            parts.append(_Part(responses, number, 0 if arm.plan.update_on == "clean" else number, arm.weight))
            if arm.plan.update_on == "perturbed" and clean_updated_on == 0:
                clean_updated_on, clean_weight = number, arm.weight
        parts.insert(0, _Part(of_clean_view, 0, clean_updated_on, clean_weight))
        return Group(
            example=clean_view.example,
            views=tuple(views),
            responses=tuple(response for part in parts for response in part.responses),
            sampled_from=tuple(part.sampled_from for part in parts for _ in part.responses),
            updated_on=tuple(part.updated_on for part in parts for _ in part.responses),
            view_weights=tuple(part.weight for part in parts for _ in part.responses),
            untouched=drawn[0][0].outcome.untouched if len(views) == 1 else None,
            metrics=_metrics([made for made, _ in drawn]),
            records=tuple(made.outcome.record for made, _ in drawn if made.outcome.record is not None),
        )

    def check(self, policy: Policy, view: View) -> None:
        """Find out whether each attack reaches what it moves."""
        for arm in self.arms:
            arm.intervention.check(policy, view)

    def guard(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Ask each arm's guard; of two that drop a response the first one's reason counts."""
        dropped: list[dict[int, str]] = [{} for _ in scored]
        for arm in self.arms:
            for whole, drops in zip(dropped, arm.drop(scored, step, supply), strict=True):
                whole |= {n: reason for n, reason in drops.items() if n not in whole}
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


def _metrics(made: Sequence[_Made]) -> dict[str, float]:
    """Return the means over an arm's views; of named arms under their names, with whether they were left alone."""
    metrics: dict[str, float] = {}
    for arm in dict.fromkeys(one.arm for one in made):
        outcomes = [one.outcome for one in made if one.arm is arm]
        attacked = [outcome.metrics for outcome in outcomes if not outcome.untouched]
        prefix = "" if arm.name is None else f"{arm.name}/"
        if attacked:
            means = {name: sum(each[name] for each in attacked) / len(attacked) for name in attacked[0]}
            metrics |= {f"{prefix}{name}": value for name, value in means.items()}
        if arm.name is not None:
            metrics[f"{prefix}untouched"] = float(not attacked)
    return metrics
