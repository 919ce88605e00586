"""The contracts of advantages and weights: kept by everything registered, and each breach is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from saei.config.strategy import StrategyConfig
from saei.need import Need
from saei.objectives.advantages.base import Advantage
from saei.objectives.advantages.group_relative import GroupRelative
from saei.objectives.batch import UpdateBatch
from saei.objectives.grpo import GRPO
from saei.objectives.weights.base import Weight
from saei.objectives.weights.selected import Selected
from saei.testing import check_advantage, check_objective, check_weight, registered
from saei.types import ScoredGroup

ENTROPY, EOS, LOGP = (Need(name) for name in ("entropy", "eos", "logp"))


@pytest.mark.parametrize("config", registered("advantage"), ids=lambda config: config.type)
def test_every_advantage_keeps_the_contract(config: StrategyConfig) -> None:
    check_advantage(config)


@pytest.mark.parametrize("baseline", ["pooled", "per-origin", "leave-one-out"])
@pytest.mark.parametrize("scale", ["group", "per-origin", "batch", "none"])
def test_every_baseline_and_scale_keeps_the_contract(baseline: Any, scale: Any) -> None:
    check_advantage(GroupRelative.Config(baseline=baseline, scale=scale))


@pytest.mark.parametrize("config", registered("weight"), ids=lambda config: config.type)
def test_every_weight_keeps_the_contract(config: StrategyConfig) -> None:
    check_weight(config)


@pytest.mark.parametrize("selector", ["all", {"type": "top-k", "share": "1/5"}, {"type": "random", "exclude": ["eos"]}])
def test_the_weight_of_every_selector_keeps_the_contract(selector: Any) -> None:
    check_weight(Selected.Config(selector=selector, count_zeroed=True))


def test_the_wrong_kind_is_refused() -> None:
    with pytest.raises(AssertionError, match="builds a Weight"):
        check_weight(GroupRelative())
    with pytest.raises(AssertionError, match="builds an Advantage"):
        check_advantage(Selected())


class Draft(Weight):
    """A sound weight with random choices and a threshold over the batch; each breach below spoils one thing of it."""

    class Config(Weight.Config):
        type: Literal["test/draft"] = "test/draft"
        breach: str = ""

    config: Config
    calls: ClassVar[int] = 0

    @property
    def needs(self) -> frozenset[Need]:
        own = {
            "declares too much": {ENTROPY, EOS, Need("logp", policy="old")},
            "reads undeclared": {ENTROPY},
            "unknown need": {ENTROPY, EOS, Need("thoughts")},
            "with gradient": {Need("entropy", grad=True), EOS},
        }
        return frozenset(own.get(self.config.breach, {ENTROPY, EOS}))

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        breach = self.config.breach
        entropy_RT = batch.statistics[ENTROPY]
        high_RT = batch.mask_RT & (entropy_RT >= entropy_RT[batch.mask_RT].mean()) | batch.statistics[EOS]
        weight_RT = high_RT * (1 + batch.advantage_RT.abs())
        Draft.calls += 1
        return BREACHES.get(breach, lambda weight_RT, *_: weight_RT)(weight_RT, batch, progress, generator)


def places(weight_RT: Tensor, batch: UpdateBatch, _: float, generator: torch.Generator) -> Tensor:
    """Draws for padding, too, so that the width of the batch decides what each token gets."""
    return weight_RT * torch.rand(weight_RT.shape, generator=generator)


def writes(weight_RT: Tensor, batch: UpdateBatch, *_: Any) -> Tensor:
    batch.advantage_RT.add_(1)
    return weight_RT


BREACHES: Mapping[str, Callable[..., Tensor]] = {
    "transposed": lambda weight_RT, *_: weight_RT.T,
    "per response": lambda weight_RT, *_: weight_RT.sum(1),
    "infinite": lambda weight_RT, *_: weight_RT / 0,
    "negative": lambda weight_RT, *_: weight_RT - 1,
    "attached": lambda weight_RT, *_: weight_RT.clone().requires_grad_(),
    "stateful": lambda weight_RT, *_: weight_RT * (1 + Draft.calls),
    "global": lambda weight_RT, *_: weight_RT * torch.rand(()),
    "places": places,
    "writes": writes,
    "padding": lambda weight_RT, batch, *_: weight_RT / batch.behaviour_entropy_RT.mean(),
    "late": lambda weight_RT, _, progress, __: weight_RT * (1 - 2 * progress),
    "nothing": lambda weight_RT, *_: 0 * weight_RT,
}


def test_the_sound_weight_keeps_the_contract() -> None:
    check_weight(Draft.Config())


@pytest.mark.parametrize(
    ("breach", "rule"),
    [
        ("unknown need", "something fills its needs"),
        ("with gradient", "something fills its needs"),
        ("reads undeclared", "reads only what its needs declare"),
        ("declares too much", r"what it declares as a need, it reads; without logp \(own view, old policy\)"),
        ("transposed", "one weight per token"),
        ("per response", "one weight per token"),
        ("infinite", "weights are finite"),
        ("negative", "no weight is negative"),
        ("attached", "weights are detached"),
        ("stateful", "the same update batch gives the same weights"),
        ("global", "the global random state"),
        ("places", "what stands on padding, and how much of it"),
        ("writes", "the update batch is left as it was"),
        ("padding", "what stands on padding, and how much of it"),
        ("late", "not negative to the end of the training"),
        ("nothing", "some tokens of some response have weight"),
    ],
)
def test_each_breach_of_a_weight_is_named(breach: str, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_weight(Draft.Config(breach=breach))


class Estimate(Advantage):
    """A sound advantage, one per token; each breach below spoils one thing of it."""

    class Config(StrategyConfig):
        type: Literal["test/estimate"] = "test/estimate"
        breach: str = ""

    config: Config
    calls: ClassVar[int] = 0

    def estimate(self, scored: ScoredGroup, rewards: Sequence[float]) -> Any:
        breach = self.config.breach
        inner = GroupRelative(GroupRelative.Config(scale="batch")).estimate(scored, rewards)
        entropies = [response.entropy_T for response in scored.group.responses]
        values: list[Any] = [value * (1 + entropy_T) for value, entropy_T in zip(inner, entropies, strict=True)]
        Estimate.calls += 1
        if breach == "one less":
            values = values[1:]
        elif breach == "mixed":
            values[-1] = 0.5
        elif breach == "too long":
            values = [torch.cat([value_T, value_T]) for value_T in values]
        elif breach == "infinite":
            values[0] = values[0] / 0
        elif breach == "attached":
            values[0] = values[0].requires_grad_()
        elif breach == "stateful":
            values = [value_T + Estimate.calls for value_T in values]
        elif breach == "global":
            values[0] = values[0] + torch.rand(())
        elif breach == "writes":
            entropies[0].add_(1)
        elif breach == "no effect":
            values = [0.0] * len(values)
        elif breach == "no spread":
            values = [value / (max(scored.rewards) - min(scored.rewards) or math.nan) for value in inner]
        return values


def test_the_sound_advantage_keeps_the_contract() -> None:
    check_advantage(Estimate.Config())


@pytest.mark.parametrize(
    ("breach", "rule"),
    [
        ("one less", "one advantage, or one tensor of them, per response"),
        ("mixed", "per token for all responses, or for none"),
        ("too long", "one advantage per token"),
        ("infinite", "advantages are finite"),
        ("attached", "advantages are detached"),
        ("stateful", "the same group gives the same advantages"),
        ("global", "the global random state"),
        ("writes", "the group is left as it was"),
        ("no effect", "where rewards differ"),
        ("no spread", "advantages are finite"),
    ],
)
def test_each_breach_of_an_advantage_is_named(breach: str, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_advantage(Estimate.Config(breach=breach))


class Prepares(GRPO):
    """A sound objective whose loss leaves out the tokens above a quantile of the batch; breaches as above."""

    class Config(GRPO.Config):
        type: Literal["test/prepares"] = "test/prepares"  # type: ignore[assignment]
        breach: str = ""

    config: Config
    calls: ClassVar[int] = 0

    @property
    def batch_needs(self) -> frozenset[Need]:
        return frozenset({Need("thoughts") if self.config.breach == "unknown need" else LOGP})

    def prepare(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Mapping[str, Tensor]:
        breach = self.config.breach
        logp_RT = batch.statistics[LOGP]
        Prepares.calls += 1
        border = logp_RT[batch.mask_RT].quantile(0.75)
        if breach == "writes":
            batch.mask_RT.fill_(True)
        elif breach == "global":
            border = border + 0 * torch.rand(())
        elif breach == "stateful":
            border = border + Prepares.calls
        elif breach == "padding":
            border = logp_RT.mean()
        elif breach == "a row of its own":
            return {"border": border.expand(3)}
        return {"border": border, "likely": (logp_RT > border) & batch.mask_RT}

    def policy_loss(self, inputs: Any) -> Any:
        loss = super().policy_loss(inputs)
        assert inputs.prepared["likely"].shape == inputs.mask_RT.shape
        return loss


def test_an_objective_that_prepares_keeps_the_contract() -> None:
    check_objective(Prepares.Config())


@pytest.mark.parametrize(
    ("breach", "rule"),
    [
        ("unknown need", "something fills its needs"),
        ("writes", "the update batch is left as it was"),
        ("global", "the global random state"),
        ("stateful", "the same update batch prepares the same"),
        ("padding", "what stands on padding of the update batch prepares the same"),
        ("a row of its own", "a scalar or with one row per response"),
    ],
)
def test_each_breach_of_preparing_is_named(breach: str, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_objective(Prepares.Config(breach=breach))
