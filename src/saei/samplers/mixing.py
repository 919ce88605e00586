"""What samplers share that mix clean and intervened responses in one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.policy import Policy
from saei.samplers.base import MOST_RESPONSES, Sampler, SamplingContext
from saei.types import Group, Response, ScoredGroup, View, ViewWeight


class Mixing(Sampler):
    """Some responses from the clean view, the others from views that an intervention made from them.

    A group that the intervention leaves alone draws its remaining responses from the clean view: the budget is
    kept and the case is counted.
    """

    class Config(StrategyConfig):
        """Fields of every mixing sampler.

        Attributes:
            n_clean: Responses from the clean view; the attack's criterion is taken over these.
            n_adversarial: Responses from intervened views.
            views: Intervened views per group, which share ``n_adversarial``; more than one differ only where the
                selector or the attack is random, and where neither is, one is made for all.
            intervention: How those views are made.
            update_on: View of the update. ``sampled``: each response under the view it was drawn from, the
                literal reading of the paper (assumed). ``clean``: all under the clean view, as NoisyRollout
                (arXiv 2504.13055). ``perturbed``: all under the intervened view.
            beta: Exponent of the view weight; 0 ignores the gap between the views, 1 corrects it fully.
            weight_cap: Largest view weight.
        """

        n_clean: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        n_adversarial: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        views: int = Field(default=1, ge=1, le=MOST_RESPONSES)
        intervention: InterventionConfig = InterventionConfig()
        update_on: Literal["sampled", "clean", "perturbed"] = "sampled"
        beta: float = Field(default=0.0, ge=0.0, le=100.0)
        weight_cap: float = Field(default=2.0, gt=0.0, le=1e6)

        @model_validator(mode="after")
        def _a_response_from_each_view(self) -> Self:
            if self.views > self.n_adversarial:
                raise ValueError(
                    f"Each intervened view answers at least once: {self.views} views share {self.n_adversarial} "
                    "responses. Lower views, or raise n_adversarial."
                )
            return self

        @model_validator(mode="after")
        def _each_has_an_effect(self) -> Self:
            if self.beta and self.update_on == "sampled":
                raise ValueError(
                    "beta weighs responses that are trained under another view than the one they were drawn from, "
                    "and with update_on sampled there are none. Set sampler.update_on to clean or perturbed, or beta "
                    "to 0."
                )
            if not self.beta and self.weight_cap != type(self).model_fields["weight_cap"].default:
                raise ValueError("weight_cap bounds the view weight, which is 1 where beta is 0. Set one, too.")
            return self

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.intervention = Intervention(self.config.intervention)

    @property
    def group_size(self) -> int:
        """``n_clean + n_adversarial``."""
        return self.config.n_clean + self.config.n_adversarial

    def draw(self, views: Sequence[View], ctx: SamplingContext) -> list[Group]:
        """Return one group per view, clean responses first."""
        policy, config = ctx.policy, self.config
        with ctx.phase("sample"):
            clean = policy.sample(views, [config.n_clean] * len(views), generators=ctx.generators(views))
        with ctx.phase("attack"):
            outcomes = self._intervene(views, clean, ctx)
        shares = [share for own in outcomes for share in _shares(config.n_adversarial, len(own))]
        intervened = [outcome.view for own in outcomes for outcome in own]
        with ctx.phase("sample"):
            drawn = iter(policy.sample(intervened, shares, generators=ctx.generators(intervened)))
        return [
            self._group(view, own, clean_responses, [next(drawn) for _ in own])
            for view, own, clean_responses in zip(views, outcomes, clean, strict=True)
        ]

    def _intervene(
        self, views: Sequence[View], clean: Sequence[Sequence[Response]], ctx: SamplingContext
    ) -> list[list[Outcome]]:
        """Return the outcomes of each group's intervened views; a single one where further views would be the same.

        They would be where selector and attack drew nothing at random, which the group's source of randomness tells.
        """
        before = ctx.states(views)
        outcomes = [[first] for first in self.intervention.apply(views, clean, ctx)]
        random = [n for n, (old, new) in enumerate(zip(before, ctx.states(views), strict=True)) if old != new]
        for _ in range(self.config.views - 1 if random else 0):
            further = self.intervention.apply([views[n] for n in random], [clean[n] for n in random], ctx)
            for n, outcome in zip(random, further, strict=True):
                outcomes[n].append(outcome)
        return outcomes

    def _group(
        self, view: View, outcomes: Sequence[Outcome], clean: list[Response], drawn: list[list[Response]]
    ) -> Group:
        numbers = count(1)
        places = [0 if outcome.untouched else next(numbers) for outcome in outcomes]
        by_place = sorted(zip(places, drawn, strict=True), key=lambda pair: pair[0])
        attacked = [outcome for outcome in outcomes if not outcome.untouched]
        sampled_from = (*((0,) * len(clean)), *(place for place, own in by_place for _ in own))
        updated_on = {
            "sampled": sampled_from,
            "clean": (0,) * len(sampled_from),
            "perturbed": tuple(max(place, min(1, len(attacked))) for place in sampled_from),
        }[self.config.update_on]
        return Group(
            example=view.example,
            views=(view, *(outcome.view for outcome in attacked)),
            responses=(*clean, *(response for _, own in by_place for response in own)),
            sampled_from=sampled_from,
            updated_on=updated_on,
            view_weight=ViewWeight(self.config.beta, self.config.weight_cap),
            untouched=None if attacked else outcomes[0].untouched,
            metrics=_mean([outcome.metrics for outcome in attacked]),
        )

    def check(self, policy: Policy, view: View) -> None:
        """Find out whether the attack reaches the pixels."""
        self.intervention.check(policy, view)

    def guard(self, scored: ScoredGroup, ctx: SamplingContext) -> ScoredGroup | None:
        """Ask the intervention's guard."""
        return self.intervention.guard.inspect(scored, ctx)

    def parts(self) -> Mapping[str, Strategy]:
        """Return the intervention's slots."""
        return self.intervention.parts()


def _shares(total: int, parts: int) -> list[int]:
    """Split a number into nearly equal parts, larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _mean(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]} if metrics else {}
