"""Samplers: groups of the promised sizes and origins, and their contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from groups import no_grades, token_logp
from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.config.strategy import StrategyConfig, observe_all, restore, state_of
from saei.data.bars import Bars
from saei.entropy.selectors.base import Selector, TokenStats
from saei.errors import TrainingError
from saei.interventions import InterventionConfig
from saei.interventions.base import Gate, Guard
from saei.interventions.gates import ZeroVariance
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime.seeds import GroupSources
from saei.samplers.base import Sampler, SamplingPlan, StepContext, Supply, checked_drops
from saei.samplers.clean import Clean
from saei.samplers.mixed import Mixed
from saei.testing import check_sampler, registered
from saei.types import CLEAN, Drops, Example, Grade, Group, Response, ScoredGroup, View, ViewWeight


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    return [random_policy.view(bars.example(i)) for i in range(2)]


def draw(
    sampler: Sampler, policy: Policy, views: Sequence[View], grade: Any = no_grades, phases: list[str] | None = None
) -> list[Group]:
    def phase(name: str) -> Any:
        (phases if phases is not None else []).append(name)
        return nullcontext()

    return sampler.draw(views, StepContext(policy, 0.0, GroupSources(0), phase), Supply(grade))


def mixed(n_clean: int = 2, n_adversarial: int = 3, **fields: Any) -> Mixed:
    return Mixed(Mixed.Config(n_clean=n_clean, n_adversarial=n_adversarial, **fields))


def test_clean_groups(random_policy: Policy, views: list[View]) -> None:
    groups = draw(Clean(Clean.Config(n=3)), random_policy, views)
    for view, group in zip(views, groups, strict=True):
        assert group.views == (view,)
        assert group.example is view.example
        assert group.sampled_from == group.updated_on == (0, 0, 0)
        assert len(group.responses) == 3
        assert group.untouched is None


@pytest.mark.parametrize(
    ("update_on", "expected"),
    [("sampled", (0, 0, 1, 1, 1)), ("clean", (0, 0, 0, 0, 0)), ("perturbed", (1, 1, 1, 1, 1))],
)
def test_mixed_groups(
    random_policy: Policy, views: list[View], update_on: Literal["sampled"], expected: tuple[int, ...]
) -> None:
    phases: list[str] = []
    weight = {} if update_on == "sampled" else {"beta": 0.5, "weight_cap": 3.0}
    sampler = mixed(update_on=update_on, **weight)
    groups = draw(sampler, random_policy, views, phases=phases)
    assert sampler.plan().group_size == 5
    assert phases == ["sample", "attack", "sample"]
    for view, group in zip(views, groups, strict=True):
        assert group.views[0] is view
        assert [own.origin for own in group.views] == [CLEAN, "adversarial"]
        assert group.sampled_from == (0, 0, 1, 1, 1)
        assert group.updated_on == expected
        assert [group.origin(n) for n in range(5)] == [CLEAN] * 2 + ["adversarial"] * 3
        off_view = [n for n in range(5) if group.sampled_from[n] != group.updated_on[n]]
        assert bool(off_view) == bool(weight)
        assert all((group.view_weight(n).beta, group.view_weight(n).cap) == (0.5, 3.0) for n in off_view)
        assert not torch.equal(group.views[1].canvases[0], view.canvases[0])
        with torch.no_grad():  # drawn from where they say, by the model's own forward
            for response, place in zip(group.responses, group.sampled_from, strict=True):
                expected_T = token_logp(random_policy, group.views[place], response)
                torch.testing.assert_close(response.behaviour_logp_T, expected_T, atol=5e-5, rtol=0)


@pytest.mark.parametrize("update_on", ["sampled", "clean", "perturbed"])
def test_several_views_share_the_adversarial_responses(
    random_policy: Policy, views: list[View], update_on: Literal["sampled"]
) -> None:
    intervention = InterventionConfig(attack=Noise.Config())
    (group, _) = draw(
        mixed(n_adversarial=5, views=2, update_on=update_on, intervention=intervention), random_policy, views
    )
    assert len(group.views) == 3
    assert group.sampled_from == (0, 0, 1, 1, 1, 2, 2)
    assert (
        group.updated_on
        == {
            "sampled": (0, 0, 1, 1, 1, 2, 2),
            "clean": (0,) * 7,
            "perturbed": (1, 1, 1, 1, 1, 2, 2),
        }[update_on]
    )
    assert not torch.equal(group.views[1].canvases[0], group.views[2].canvases[0])


@pytest.mark.parametrize(("attack", "attacks"), [("pgd", 1), ("noise", 2)])
def test_views_that_would_be_the_same_are_made_once(
    random_policy: Policy, views: list[View], attack: str, attacks: int
) -> None:
    sampler = mixed(n_adversarial=5, views=2, intervention=InterventionConfig.model_validate({"attack": attack}))
    made: list[Any] = []
    attacking = sampler.arms[0].intervention.attack
    real = attacking.attack
    attacking.attack = lambda *given, **rest: (made.append(1), real(*given, **rest))[1]  # type: ignore[method-assign]
    groups = draw(sampler, random_policy, views)
    assert len(made) == attacks
    for group in groups:
        assert len(group.views) == 1 + attacks
        assert group.sampled_from == ((0, 0, 1, 1, 1, 1, 1) if attacks == 1 else (0, 0, 1, 1, 1, 2, 2))


def test_a_group_left_alone_keeps_its_budget(random_policy: Policy, views: list[View]) -> None:
    text_only = random_policy.view(Example("t", "What is 1 + 2?", "3"))

    def grade(view: View, responses: Sequence[Response]) -> list[Grade]:
        assert view is not text_only
        return [Grade(0.0, view is views[0] and n == 0) for n in range(len(responses))]

    gate = InterventionConfig(gate=ZeroVariance.Config())
    groups = draw(mixed(update_on="perturbed", intervention=gate), random_policy, [text_only, *views], grade)
    assert [group.untouched for group in groups] == ["no-image", "varies", None]
    for view, group in zip([text_only, views[0]], groups, strict=False):
        assert group.views == (view,)
        assert group.sampled_from == group.updated_on == (0,) * 5
        assert len(group.responses) == 5
    assert groups[2].updated_on == (1,) * 5


class Sometimes(Selector):
    """Selects nothing at one of the times that it is asked, and everything at the others."""

    class Config(Selector.Config):
        type: Literal["sometimes"] = "sometimes"
        silent: int = 1

    asked = 0

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        self.asked += 1
        torch.rand(1, generator=generator)  # it differs from time to time, so it counts as random
        silent: int = self.config.silent  # type: ignore[attr-defined]
        return stats.valid_NT if self.asked != silent else torch.zeros_like(stats.valid_NT)


@pytest.mark.parametrize("silent", [1, 2])
def test_one_of_several_views_left_alone(random_policy: Policy, views: list[View], silent: int) -> None:
    slots = InterventionConfig(selector=Sometimes.Config(silent=silent))
    sampler = mixed(n_adversarial=3, views=2, update_on="perturbed", intervention=slots)
    (group,) = draw(sampler, random_policy, views[:1])
    assert [view.origin for view in group.views] == [CLEAN, "adversarial"]
    assert group.sampled_from == ((0, 0, 0, 0, 1) if silent == 1 else (0, 0, 0, 1, 1))
    assert group.updated_on == (1,) * 5
    assert group.untouched is None
    assert group.metrics["selected"] == sum(map(len, group.responses[:2]))
    with torch.no_grad():
        for response, place in zip(group.responses, group.sampled_from, strict=True):
            expected_T = token_logp(random_policy, group.views[place], response)
            torch.testing.assert_close(response.behaviour_logp_T, expected_T, atol=5e-5, rtol=0)


def test_zero_steps_are_the_clean_views(random_policy: Policy, views: list[View]) -> None:
    still = mixed(intervention=InterventionConfig(attack=PGD.Config(steps=0)))
    for view, group in zip(views, draw(still, random_policy, views), strict=True):
        assert torch.equal(group.views[1].canvases[0], view.canvases[0])
        assert torch.equal(group.views[1].prompt_ids_P, view.prompt_ids_P)
        assert group.sampled_from == (0, 0, 1, 1, 1)


def test_the_clean_responses_do_not_depend_on_the_attack(random_policy: Policy, views: list[View]) -> None:
    strong = mixed(intervention=InterventionConfig(attack=PGD.Config(step=Fraction(16, 255))))
    for ours, theirs in zip(draw(mixed(), random_policy, views), draw(strong, random_policy, views), strict=True):
        for n in range(2):
            assert torch.equal(ours.responses[n].ids_T, theirs.responses[n].ids_T)
        for name in ours.metrics.keys() - {"moved", "largest_change"}:
            assert ours.metrics[name] == theirs.metrics[name]  # of the clean image
        assert [round(own.metrics["largest_change"]) for own in (ours, theirs)] == [2, 16]
        clean, moved = (view.canvases[0] for view in ours.views)
        share = np.mean(clean.numpy() != moved.numpy())
        assert ours.metrics["moved"] == pytest.approx(share)
        assert 0 < share <= 1


class Countdown(Gate):
    """Attacks while its count, lowered by each observation, lasts."""

    class Config(StrategyConfig):
        type: Literal["countdown"] = "countdown"

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.left = 2

    def leave_alone(self, views: Any, responses: Any, step: Any, supply: Any) -> list[str | None]:
        return [None if self.left > 0 else "over"] * len(views)

    def observe(self, metrics: Mapping[str, float]) -> None:
        self.left -= int(metrics.get("train/reward", 0))

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.left = state["left"]


class FirstOnly(Guard):
    """Keeps the first two responses."""

    class Config(StrategyConfig):
        type: Literal["first-only"] = "first-only"

    def drop(self, scored: Sequence[ScoredGroup], step: Any, supply: Any) -> list[dict[int, str]]:
        return [dict.fromkeys(range(2, len(one.grades)), "late") for one in scored]


def test_state_observation_and_guard_reach_the_interventions_parts(random_policy: Policy, views: list[View]) -> None:
    slots = InterventionConfig(gate=Countdown.Config(), guard=FirstOnly.Config())
    sampler = mixed(intervention=slots)
    observe_all(sampler, {"train/reward": 2.0})
    assert state_of(sampler)["parts"]["gate"]["own"] == {"left": 0}
    other = mixed(intervention=slots)
    assert draw(other, random_policy, views[:1])[0].untouched is None
    restore(other, state_of(sampler))
    (group,) = draw(other, random_policy, views[:1])
    assert group.untouched == "over"
    scored = ScoredGroup(group, tuple(Grade(0.0, False) for _ in group.responses))
    (drops,) = other.guard([scored], StepContext(random_policy, 0.0, GroupSources(0)), Supply(no_grades))
    assert drops == {2: "late", 3: "late", 4: "late"}
    left = scored.without(drops)
    assert len(left.grades) == len(left.group.responses) == len(left.group.view_weights) == 2
    check_sampler(mixed(intervention=slots), random_policy, views)


def test_parents_follow_the_responses_that_are_kept() -> None:
    ids = torch.zeros(1, dtype=torch.long)
    drawn = Response(ids, "", torch.zeros(1), torch.zeros(1), truncated=False)
    responses = tuple(replace(drawn, parent=parent) for parent in (None, None, 1, 0, 1))
    example = Example("e", "q", "a")
    group = Group(example, (View(example, "clean", ids, ids[None]),), responses, (0,) * 5, (0,) * 5)
    scored = ScoredGroup(group, (Grade(0.0, False),) * 5)
    left = scored.without({0: "late"}).group.responses
    assert [response.parent for response in left] == [None, 0, None, 0]
    assert left[0] is responses[1]  # what is known of its tokens is found by the object
    same = scored.without({3: "late", 4: "late"}).group.responses
    assert all(one is other for one, other in zip(same, responses[:3], strict=True))


@pytest.mark.parametrize("config", registered("sampler"), ids=lambda config: config.type)
def test_contract(config: StrategyConfig, random_policy: Policy, views: list[View]) -> None:
    check_sampler(config, random_policy, [*views, random_policy.view(Example("t", "What is 1 + 2?", "3"))])


@pytest.mark.parametrize(
    "fields",
    [
        {"n_adversarial": 2, "views": 2},
        {"update_on": "perturbed", "views": 2, "intervention": {"attack": "noise", "gate": "zero-variance"}},
        {"intervention": {"attack": {"type": "pgd", "steps": 0}}},
        {"intervention": {"attack": {"type": "pgd", "random_start": True}, "reselect": True, "selector": "random"}},
    ],
    ids=["as many views as responses", "gated", "no steps", "random"],
)
def test_variants_keep_the_contract(fields: dict[str, Any], random_policy: Policy, views: list[View]) -> None:
    check_sampler(Mixed.Config.model_validate({"n_clean": 2, "n_adversarial": 2} | fields), random_policy, views)


class Liar(Clean):
    """Breaks one rule of the contract."""

    class Config(StrategyConfig):
        type: Literal["liar"] = "liar"
        about: str
        n: int = 2

    asked = 0

    def plan(self) -> SamplingPlan:
        about, plan = self.config.about, super().plan()  # type: ignore[attr-defined]
        if about == "no arms":
            return replace(plan, arms=())
        if about == "setting":
            return replace(plan, arms=(replace(plan.arms[0], count="m"),))
        return plan

    def guard(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        return [{9: "late"} if self.config.about == "drops" else {} for _ in scored]  # type: ignore[attr-defined]

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        about, self.asked = self.config.about, self.asked + 1  # type: ignore[attr-defined]
        if about == "global randomness":
            torch.rand(1)
        if about == "parameters":
            next(step.policy.module.parameters()).requires_grad_(False)
        if about == "source" and views:
            step = replace(step, sources=lambda view, first=views[0], own=step.sources: own(first))
        groups = super().draw(views, step, supply)
        if about == "nothing" and not views:
            groups = [None]  # type: ignore[list-item]
        if about == "size":
            groups = [replace(group, responses=group.responses[:1]) for group in groups]
        if about == "weights":
            groups = [replace(group, view_weights=(ViewWeight(),)) for group in groups]
        if about == "new origin":
            groups = [replace(group, views=(*group.views, replace(group.views[0], origin="new"))) for group in groups]
        if about == "order":
            groups = groups[::-1]
        if about == "origin":
            dark = [replace(group.views[0], origin="dark") for group in groups]
            dark = [replace(view, canvases=tuple(c * 0 for c in view.canvases)) for view in dark]
            groups = [
                replace(group, views=(*group.views, view), sampled_from=(0, 1))
                for group, view in zip(groups, dark, strict=True)
            ]
        if about == "grid":
            off = [
                replace(group.views[0], origin="dark", canvases=tuple(c + 1e-3 for c in group.views[0].canvases))
                for group in groups
            ]
            groups = [replace(group, views=(*group.views, view)) for group, view in zip(groups, off, strict=True)]
        if about == "state" and self.asked > 1:
            groups = [replace(group, updated_on=(0, 0), responses=group.responses[::-1]) for group in groups]
        return groups


@pytest.mark.parametrize(
    ("about", "rule"),
    [
        ("global randomness", "global random state"),
        ("parameters", "requires_grad"),
        ("size", "as many responses as planned"),
        ("weights", "one view weight per response"),
        ("new origin", "origins are those of its plan"),
        ("no arms", "begins with the clean arm"),
        ("setting", "settings that its plan names"),
        ("nothing", "that is given no view draws no group"),
        ("drops", "by their numbers"),
        ("order", "first view is the one given"),
        ("origin", "drawn from"),
        ("grid", "8-bit picture"),
        ("source", r"step\.generators"),
        ("state", "restored from its state"),
    ],
)
def test_the_contract_catches(about: str, rule: str, random_policy: Policy, views: list[View]) -> None:
    first = next(random_policy.module.parameters())
    try:
        with pytest.raises(AssertionError, match=rule):
            check_sampler(Liar.Config(about=about), random_policy, views)
    finally:
        first.requires_grad_(True)


def test_drops_are_said_for_each_group_and_of_its_responses() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    view = View(Example("0", "", ""), "clean", nothing, nothing[None])
    scored = [ScoredGroup(Group(view.example, (view,), (), (0, 0), (0, 0)), (Grade(0.0, correct=False),) * 2)] * 2
    assert checked_drops(Clean(), scored, [{}, {1: "word"}]) == [{}, {1: "word"}]
    with pytest.raises(TrainingError, match="'clean' returned 1 for 2 groups"):
        checked_drops(Clean(), scored, [{}])
    with pytest.raises(TrainingError, match="'clean' returned response 2"):
        checked_drops(Clean(), scored, [{}, {2: "word"}])
