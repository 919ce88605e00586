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
            for slot, part in (("gate", arm.intervention.gate), ("guard", arm.intervention.guard))
            if part.needs_supply
        ]
        return SamplingPlan((clean_arm(self.n_clean, "n_clean"), *(arm.plan for arm in self.arms)), tuple(needs))

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view, clean responses first."""
        clean = step.sample(views, [self.n_clean] * len(views))
        with step.phase("attack"):
            made_by_arm = [arm.intervene(views, clean, step, supply) for arm in self.arms]
        # All views of all arms are drawn from together. Of each group: for each arm its outcomes, in order.
        made = [list(zip(self.arms, outcomes, strict=True)) for outcomes in zip(*made_by_arm, strict=True)]
        intervened = [outcome.view for of_group in made for _, outcomes in of_group for outcome in outcomes]
        shares = [
            share
            for of_group in made
            for arm, outcomes in of_group
            for share in nearly_equal_parts(arm.plan.responses, len(outcomes))
        ]
        drawn = iter(step.sample(intervened, shares))
        return [
            self._group(
                view,
                clean_responses,
                [(arm, outcome, next(drawn)) for arm, outcomes in of_group for outcome in outcomes],
            )
            for view, clean_responses, of_group in zip(views, clean, made, strict=True)
        ]

    def _group(
        self, clean_view: View, clean: Sequence[Response], drawn: Sequence[tuple[ArmSampler, Outcome, list[Response]]]
    ) -> Group:
        """Return the group of a clean view.

        Args:
            clean_view: The group's first view.
            clean: Responses to it.
            drawn: For each arm's views in turn what became of the view, and the responses to it.
        """
        views, parts = [clean_view], []
        of_clean_view, clean_updated_on, clean_weight = list(clean), 0, ViewWeight()
        for arm, outcome, responses in drawn:
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
            untouched=drawn[0][1].untouched if len(views) == 1 else None,
            metrics=_metrics([(arm, outcome) for arm, outcome, _ in drawn]),
            records=tuple(outcome.record for _, outcome, _ in drawn if outcome.record is not None),
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


def _metrics(outcomes: Sequence[tuple[ArmSampler, Outcome]]) -> dict[str, float]:
    """Return the means over an arm's views; of named arms under their names, with whether they were left alone."""
    metrics: dict[str, float] = {}
    for arm in dict.fromkeys(arm for arm, _ in outcomes):
        own = [outcome for other, outcome in outcomes if other is arm]
        attacked = [outcome.metrics for outcome in own if not outcome.untouched]
        prefix = "" if arm.name is None else f"{arm.name}/"
        if attacked:
            means = {name: sum(each[name] for each in attacked) / len(attacked) for name in attacked[0]}
            metrics |= {f"{prefix}{name}": value for name, value in means.items()}
        if arm.name is not None:
            metrics[f"{prefix}untouched"] = float(not attacked)
    return metrics
