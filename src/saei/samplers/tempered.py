"""Clean-view responses at another temperature: the control of what an intervention's divergence alone does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from saei.config.sections import COLDEST
from saei.config.strategy import Section, Strategy, StrategyConfig
from saei.errors import ConfigError
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.measure import FROM_CLEAN
from saei.policy import Policy
from saei.samplers.base import (
    MOST_RESPONSES,
    OwnLoopOnly,
    PlannedArm,
    Sampler,
    SamplingPlan,
    StepContext,
    Supply,
    clean_arm,
)
from saei.samplers.temperature import TemperatureDivergence
from saei.types import Example, Group, Response, View, ViewWeight

ORIGIN = "tempered"

HALVINGS = 14
"""Halvings of the interval of temperatures; of one from 1 to 10 they leave 0.0005."""

DECIMALS = 3
"""Decimals of a temperature that was searched for. Sums over other processes differ in their last digits; rounded, the
temperature does not."""


class MatchedKL(Section):
    """A temperature that is searched for in every step.

    Attributes:
        match: What is matched: ``kl``, the divergence ``KL(tempered‖plain)`` over the vocabulary.
        target: Its mean over the tokens of the step's clean responses, in nats per token.
        intervention: In place of a target: it is the divergence ``KL(moved‖clean)`` of the views that this intervention
            would make in the step. They are made and measured, and no response is drawn from them.
        max_temperature: Largest temperature; it is used where the target is out of reach.
    """

    match: Literal["kl"] = "kl"
    target: PositiveFloat | None = None
    intervention: InterventionConfig | None = None
    max_temperature: float = Field(default=10.0, gt=0.0, le=100.0)

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if (self.target is None) == (self.intervention is None):
            raise ValueError(
                "A divergence is matched with a number or with that of an intervention. Give `target` or "
                "`intervention`, not both"
            )
        if self.intervention is not None and self.intervention.guard.type != "none":
            raise ValueError(
                "A guard drops responses, and none is drawn from the views of the intervention that is matched. Leave "
                "its guard out"
            )
        return self


class Tempered(Sampler):
    """Some responses as the policy samples, the others from the same clean view at a higher or lower temperature.

    Whatever an intervention does to a view, its responses come from another distribution than the clean ones. This is
    the control without an intervention: the divergence alone. Matched, one temperature serves all groups of the step,
    in all processes, since the divergence of an intervention is measured as a mean over them, too
    (``train/view_kl/adversarial``). A temperature of its own for each group would heat confident groups without bound
    until they reached a divergence that the intervention does not have there either.

    All responses are trained under the policy's own distribution. ``beta`` corrects the gap to the distribution that
    the tempered ones were drawn from. Source: original.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            n_clean: Responses at the policy's own temperature.
            n_tempered: Responses at the other one.
            temperature: A number, or ``{match: kl, target: 0.012}``: the temperature, not below the policy's own, at
                which the divergence from the policy is 0.012 nats per token; ``max_temperature``, 10 by default, is
                taken where the target is out of reach. Or ``{match: kl, intervention: {attack: {step: 4/255}}}``: at
                which it is that of the attack in the same step.
            beta: Exponent of the view weight of the tempered responses; 0 ignores the gap between the distributions, 1
                corrects it fully.
            weight_cap: Largest view weight.
        """

        type: Literal["tempered"] = "tempered"
        n_clean: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        n_tempered: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        temperature: float | MatchedKL
        beta: float = Field(default=0.0, ge=0.0, le=100.0)
        weight_cap: float = Field(default=2.0, gt=0.0, le=1e6)

        @model_validator(mode="after")
        def _can_be_drawn_from(self) -> Self:
            if isinstance(self.temperature, float) and not COLDEST <= self.temperature <= 100.0:
                raise ValueError(
                    f"Responses for training are drawn at a temperature from {COLDEST} to 100. "
                    f"Got {self.temperature:g}. Choose another."
                )
            if not self.beta and self.weight_cap != type(self).model_fields["weight_cap"].default:
                raise ValueError("weight_cap bounds the view weight, which is 1 where beta is 0. Set one, too.")
            return self

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        match = self.config.temperature
        matched = match.intervention if isinstance(match, MatchedKL) else None
        self._matched = Intervention(matched) if matched is not None else None
        if self._matched is not None and (self._matched.rewords or self._matched.needs_oracle):
            raise ConfigError(
                "The divergence of an intervention is matched where the question stays as it is.",
                reason=f"'{self._matched.attack.name()}' changes its words.",
                remedy="Choose an attack on the picture or on embeddings, or give `target`.",
            )

    def plan(self) -> SamplingPlan:
        """Return the clean arm and the tempered one."""
        arm = PlannedArm(ORIGIN, self.config.n_tempered, update_on="clean", beta=self.config.beta, count="n_tempered")
        matched = isinstance(self.config.temperature, MatchedKL)
        reason = "one temperature is matched over the groups of all processes"
        return SamplingPlan(
            arms=(clean_arm(self.config.n_clean, "n_clean"), arm),
            own_loop_only=(OwnLoopOnly("temperature.match", reason),) if matched else (),
            pooled=matched,
        )

    def check(self, policy: Policy, views: Sequence[View]) -> None:
        """Refuse the policy's own temperature, and a search that no other one is left for.

        Raises:
            ConfigError: If the temperature is the policy's own, or the largest one is not above it.
        """
        match = self.config.temperature
        if match == policy.sampling.temperature:
            raise ConfigError(
                "Tempered responses are drawn at another temperature than the clean ones.",
                reason=f"sampling.temperature and sampler.temperature are both {match:g}.",
                remedy="Change the latter, or use the sampler `clean`.",
            )
        if isinstance(match, MatchedKL) and match.max_temperature <= policy.sampling.temperature:
            raise ConfigError(
                "A matched temperature lies between the policy's own and the largest one.",
                reason=f"sampling.temperature is {policy.sampling.temperature:g}, "
                f"sampler.temperature.max_temperature {match.max_temperature:g}.",
                remedy="Raise the latter.",
            )
        if self._matched is not None:
            self._matched.check(policy, views)

    def lacks(self, view: View) -> str | None:
        """Return why the intervention that is matched has nothing to move."""
        return self._matched.lacks(view) if self._matched is not None else None

    def example_lacks(self, example: Example) -> str | None:
        """Return why the intervention that is matched has nothing to move in an example."""
        return self._matched.example_lacks(example) if self._matched is not None else None

    def parts(self) -> Mapping[str, Strategy]:
        """Return the slots of the intervention that is matched."""
        return self._matched.parts() if self._matched is not None else {}

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view, clean responses first."""
        n_clean, n_tempered = self.config.n_clean, self.config.n_tempered
        clean = step.sample(views, [n_clean] * len(views))
        match = self.config.temperature
        if isinstance(match, MatchedKL):
            assert supply is not None
            target = match.target
            if target is None:
                with step.phase("attack"):
                    target = self._divergence_of_intervention(views, clean, step, supply)
            with step.phase("sample"):
                divergence = TemperatureDivergence(step.policy, views, clean, supply.total)
                temperature, reached = matched_temperature(divergence, target, match.max_temperature)
            metrics = {"temperature": temperature, "temperature_kl": reached, "target_kl": target}
            if target > 0:
                metrics["kl_ratio"] = reached / target
        else:
            temperature = match
            metrics = {"temperature": temperature}
        tempered = step.sample(views, [n_tempered] * len(views), temperature=temperature)
        weights = (ViewWeight(),) * n_clean + (ViewWeight(self.config.beta, self.config.weight_cap),) * n_tempered
        return [
            Group(
                example=view.example,
                # The second view shows the same. It stands for the other distribution, whose responses are told apart
                # by its origin.
                views=(view, replace(view, origin=ORIGIN)),
                responses=(*of_clean, *of_tempered),
                sampled_from=(0,) * n_clean + (1,) * n_tempered,
                updated_on=(0,) * (n_clean + n_tempered),
                view_weights=weights,
                metrics=metrics,
            )
            for view, of_clean, of_tempered in zip(views, clean, tempered, strict=True)
        ]

    def _divergence_of_intervention(
        self, views: Sequence[View], clean: Sequence[Sequence[Response]], step: StepContext, supply: Supply
    ) -> float:
        """Return ``KL(moved‖clean)`` of the intervention, in nats, as a mean over the tokens of all clean responses.

        Groups that it leaves alone add tokens and no divergence.
        """
        assert self._matched is not None
        outcomes = self._matched.apply(views, clean, step, supply)
        moved = [number for number, outcome in enumerate(outcomes) if not outcome.untouched]
        statistics = step.policy.statistics(
            {FROM_CLEAN},
            [outcomes[number].view for number in moved],
            [clean[number] for number in moved],
            clean=[views[number] for number in moved],
        )
        step.policy.forget_states()
        nats = supply.total(sum(float(known[FROM_CLEAN].double().sum()) for known in statistics))
        tokens = supply.total(sum(len(response) for responses in clean for response in responses))
        return nats / max(1, tokens)


def matched_temperature(
    divergence: TemperatureDivergence, target: float, max_temperature: float
) -> tuple[float, float]:
    """Return the temperature whose divergence is the target, and that divergence, in nats per token.

    Above the policy's own temperature the divergence grows with every step of the temperature, so halving finds it.

    Args:
        divergence: Of the step's clean responses; every process searches with the same totals.
        target: The divergence that is looked for.
        max_temperature: The largest temperature.
    """
    low, high = divergence.own_temperature, max_temperature
    if divergence.at(high) > target:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if divergence.at(middle) < target else (low, middle)
    temperature = round(high, DECIMALS)
    return temperature, divergence.at(temperature)
