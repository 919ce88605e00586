"""Clean-view responses at another temperature: the control of what an intervention's divergence alone does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from saei.config.sections import COLDEST
from saei.config.strategy import Section, StrategyConfig
from saei.errors import ConfigError
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
from saei.types import Group, View, ViewWeight

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
        max_temperature: Largest temperature; it is used where the target is out of reach.
    """

    match: Literal["kl"] = "kl"
    target: PositiveFloat
    max_temperature: float = Field(default=10.0, gt=0.0, le=100.0)


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
                taken where the target is out of reach.
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

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return one group per view, clean responses first."""
        n_clean, n_tempered = self.config.n_clean, self.config.n_tempered
        clean = step.sample(views, [n_clean] * len(views))
        if isinstance(self.config.temperature, MatchedKL):
            assert supply is not None
            with step.phase("sample"):
                divergence = TemperatureDivergence(step.policy, views, clean, supply.total)
                temperature, reached = matched_temperature(divergence, self.config.temperature)
            metrics = {"temperature": temperature, "temperature_kl": reached}
        else:
            temperature = self.config.temperature
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


def matched_temperature(divergence: TemperatureDivergence, match: MatchedKL) -> tuple[float, float]:
    """Return the temperature whose divergence is the target, and that divergence, in nats per token.

    Above the policy's own temperature the divergence grows with every step of the temperature, so halving finds it.

    Args:
        divergence: Of the step's clean responses; every process searches with the same totals.
        match: The target and the largest temperature.
    """
    low, high = divergence.own_temperature, match.max_temperature
    if divergence.at(high) > match.target:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if divergence.at(middle) < match.target else (low, middle)
    temperature = round(high, DECIMALS)
    return temperature, divergence.at(temperature)
