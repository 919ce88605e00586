"""Controls: what stands in for an attack's change is as large, and lacks what is to be tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import scipy.stats
import torch
from pydantic import ValidationError
from torch import Tensor

from groups import draw, no_grades, own_forward, spoken
from runs import registered as in_registry
from saei.attacks.base import Attack, BlockSpace, Point
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.engine.limits import NothingToMove
from saei.errors import ConfigError, TrainingError
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.interventions.base import Gate
from saei.interventions.context import StepContext, Supply
from saei.interventions.control import Change, Control, Substitute
from saei.interventions.controls import MatchedNoise, OtherExample, ShuffledSigns, shuffled
from saei.interventions.point import OpenViews
from saei.interventions.surfaces import Pixels
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.samplers.mixed import Mixed
from saei.testing import check_control, registered
from saei.types import Response, View

GRID = 1 / 255


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    return [random_policy.view(bars.example(number), number) for number in range(3)]


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    return draw(random_policy, views, [2, 3, 2])


def apply(
    policy: Policy,
    views: Sequence[View],
    responses: Sequence[Sequence[Response]],
    supply: Supply | None = None,
    **slots: Any,
) -> list[Outcome]:
    step = StepContext(policy, 0.0, GroupSources(3))
    return Intervention(InterventionConfig.model_validate(slots)).apply(views, responses, step, supply)


def change_of(outcome: Outcome, view: View) -> Tensor:
    """The change of the only picture, in 8-bit levels."""
    change = (outcome.view.canvases[0] - view.canvases[0]) * 255
    assert float((change - change.round()).abs().max()) < 1e-3
    return change.round()


@pytest.mark.parametrize("config", registered("control"), ids=lambda config: config.type)
def test_contract(config: StrategyConfig, random_policy: Policy, views: list[View]) -> None:
    check_control(config, random_policy, views)


def broken(substitutes: Callable[[Sequence[Change], StepContext, Supply | None], Any], **attributes: Any) -> Any:
    class Broken(Control):
        spaces: ClassVar[frozenset[str]] = frozenset({"pixels"})

        class Config(StrategyConfig):
            type: Literal["test/broken"] = "test/broken"

        def substitutes(self, changes: Any, step: Any, supply: Any) -> Any:
            return substitutes(changes, step, supply)

    for name, value in attributes.items():
        setattr(Broken, name, value)
    return Broken.Config()


def each(point: Callable[[Change], Iterable[Tensor]]) -> Callable[..., list[Substitute]]:
    return lambda changes, *_: [Substitute(tuple(point(change))) for change in changes]


def by_place(changes: Sequence[Change], *_: Any) -> list[Substitute]:
    return [Substitute(change.point if n == 0 else change.opened.start) for n, change in enumerate(changes)]


def drawn_globally(changes: Sequence[Change], *_: Any) -> list[Substitute]:
    torch.rand(())
    return [Substitute(change.point) for change in changes]


BREACHES = {
    "count": (lambda changes, *_: [Substitute(change.point) for change in changes][:1], "has its substitute"),
    "grid": (each(lambda c: [(3 * s + m) / 4 for s, m in zip(c.opened.start, c.point, strict=True)]), "on the grid"),
    "bounds": (each(lambda c: [s + 1 for s in c.opened.start]), "inside the bounds"),
    "nan": (each(lambda c: [s * torch.nan for s in c.opened.start]), "finite"),
    "writes": (each(lambda c: [s.zero_() for s in c.opened.start]), "left as they were"),
    "shape": (each(lambda c: [s[:, 1:] for s in c.point]), "shapes and types"),
    "order": (by_place, "order of the groups"),
    "global": (drawn_globally, "global random state"),
    "reason": (lambda cs, *_: [Substitute(c.point, untouched="no") for c in cs], "for one of its reasons"),
    "still": (each(lambda c: [torch.zeros_like(s) for s in c.opened.start]), "nothing moves"),
}


@pytest.mark.parametrize(("substitutes", "rule"), BREACHES.values(), ids=BREACHES)
def test_the_contract_catches_breaches(substitutes: Any, rule: str, random_policy: Policy, views: list[View]) -> None:
    with pytest.raises(AssertionError, match=f"test/broken: the rule is broken that .*{rule}"):
        check_control(broken(substitutes), random_policy, views)


class TestShuffledSigns:
    # Levels of 0, 1, 254 and 255, where a change of 2 has room on one side only, and of 128.
    start = torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 254, 254, 255, 255, 128, 128, 128, 128, 128]]) / 255
    change = torch.tensor([[2.0, 0, 0, 2, -1, 2, 0, 1, -2, 0, -2, 2, -2, 0, -2, 1]]) / 255
    space = BlockSpace(grid=GRID)

    def test_values_change_places_among_those_with_the_same_room(self) -> None:
        kinds = [slice(0, 4), slice(4, 7), slice(7, 9), slice(9, 11), slice(11, 16)]
        seen: list[set[tuple[float, ...]]] = [set() for _ in kinds]
        generator = torch.Generator().manual_seed(0)
        for _ in range(800):
            moved = shuffled(self.change, self.start, self.space, generator)
            assert float((self.start + moved).min()) >= 0
            assert float((self.start + moved).max()) <= 1 + 1e-6
            for kind, arrangements in zip(kinds, seen, strict=True):
                assert Counter(moved[0, kind].tolist()) == Counter(self.change[0, kind].tolist())
                arrangements.add(tuple(moved[0, kind].tolist()))
        assert [len(arrangements) for arrangements in seen] == [6, 6, 2, 2, 60]  # 4!/2!2!, 3!, 2!, 2!, 5!/2!

    def test_every_arrangement_is_as_likely(self) -> None:
        generator = torch.Generator().manual_seed(1)
        counts = Counter(
            tuple(shuffled(self.change, self.start, self.space, generator)[0, :4].tolist()) for _ in range(600)
        )
        assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01

    def test_colours_and_what_is_not_editable_stay_apart(self) -> None:
        start = torch.full((2, 1, 50), 0.5)
        change = torch.stack([torch.full((1, 50), 1 / 255), torch.full((1, 50), -2 / 255)])
        change[:, :, 25:] = 0
        editable = torch.arange(50) < 40
        moved = shuffled(change, start, replace(self.space, editable=editable), torch.Generator().manual_seed(0))
        assert not moved[:, :, 40:].any()
        assert Counter(moved[0].flatten().tolist()) == Counter(change[0].flatten().tolist())
        assert Counter(moved[1].flatten().tolist()) == Counter(change[1].flatten().tolist())
        assert moved[:, :, 25:40].any()

    def test_embeddings_have_all_the_room(self) -> None:
        start = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
        change = torch.linspace(-1, 1, 40).expand(3, 40)
        space = BlockSpace("embeddings", low=-torch.inf, high=torch.inf)
        moved = shuffled(change, start, space, torch.Generator().manual_seed(0))
        assert torch.equal(moved.sort(1).values, change)
        assert all(abs(np.corrcoef(row, change[0])[0, 1]) < 0.4 for row in moved.numpy())

    def test_an_attack_without_its_direction(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        attacked = apply(random_policy, views, responses)
        controlled = apply(random_policy, views, responses, control="shuffled-signs")
        for view, attack, control in zip(views, attacked, controlled, strict=True):
            left, right = change_of(attack, view), change_of(control, view)
            for before, after in zip(left, right, strict=True):
                assert Counter(before.flatten().tolist()) == Counter(after.flatten().tolist())
            free = (view.canvases[0] > 3 / 255) & (view.canvases[0] < 252 / 255)
            agreement = float((left == right)[free].float().mean())
            assert agreement == pytest.approx(0.5, abs=0.1)
            assert control.view.origin == "control"
            assert control.record is not None
            assert attack.record is not None
            assert control.record.distances["pixels"].share == attack.record.distances["pixels"].share
            assert control.metrics["criterion"] == attack.metrics["criterion"]


class TestOtherExample:
    def changes(self, policy: Policy, views: Sequence[View], indices: Sequence[int]) -> list[Change]:
        """Changes that know whose they are: 1, 2, … levels in every place."""
        changes = []
        for number, (view, index) in enumerate(zip(views, indices, strict=True)):
            grey = replace(view, index=index, canvases=(torch.full_like(view.canvases[0], 100 / 255),))
            still = Change(OpenViews([Pixels()], policy, [grey], scale=1.0), grey.canvases, ())
            changes.append(replace(still, point=still.after([torch.full_like(grey.canvases[0], (number + 1) / 255)])))
        return changes

    def whose(self, substitutes: Sequence[Substitute]) -> list[float]:
        return [round(float(substitute.point[0].mean()) * 255 - 100, 3) for substitute in substitutes]

    def step(self, policy: Policy) -> StepContext:
        return StepContext(policy, 0.0, GroupSources(0))

    def test_the_next_by_index(self, random_policy: Policy, views: list[View]) -> None:
        changes = self.changes(random_policy, views, [7, 2, 5])
        substitutes = OtherExample().substitutes(changes, self.step(random_policy), None)
        assert self.whose(substitutes) == [2, 3, 1]  # 7 → 2, 2 → 5, 5 → 7

    def test_over_all_processes(self, random_policy: Policy, views: list[View]) -> None:
        changes = self.changes(random_policy, views, [7, 2, 5])
        here, there = changes[:1], changes[1:]
        elsewhere = {change.view.index: list(change.differences) for change in there}
        supply = Supply(no_grades, gather=lambda value: [elsewhere, value])  # type: ignore[arg-type,list-item]
        substitutes = OtherExample().substitutes(here, self.step(random_policy), supply)
        assert self.whose(substitutes) == [2]

    def test_a_process_without_groups_still_takes_part(self, random_policy: Policy) -> None:
        calls: list[Any] = []
        supply = Supply(no_grades, gather=lambda value: calls.append(value) or [value])  # type: ignore[func-returns-value]
        assert apply(random_policy, [], [], supply, control="other-example") == []
        assert calls == [{}]

    def test_resized_by_nearest_neighbour_and_cut_off(self, random_policy: Policy, views: list[View]) -> None:
        """Three values over five places, at the middles of which 0, 0 or 1, 1, 2, 2 of them is nearest."""
        small, large = self.changes(random_policy, views[:2], [0, 1])
        pattern = torch.tensor([-3.0, 0.0, 3.0]).expand(3, 2, 3) / 255
        start = torch.full((3, 2, 3), 100 / 255)
        small = _with_blocks(random_policy, small, start, start + pattern)
        start = torch.tensor([1.0, 100.0, 100.0, 100.0, 254.0]).expand(3, 4, 5) / 255
        large = _with_blocks(random_policy, large, start, start)
        _, substitute = OtherExample().substitutes([small, large], self.step(random_policy), None)
        change = ((substitute.point[0] - start) * 255).round()
        assert torch.equal(change, torch.tensor([-1.0, -3.0, 0.0, 3.0, 1.0]).expand(3, 4, 5))

    def test_alone_it_is_left_alone_and_counted(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        (outcome,) = apply(random_policy, views[:1], responses[:1], control="other-example")
        assert outcome.untouched == "no-other-example"
        assert outcome.view is views[0]
        sampler = Mixed.Config.model_validate({"intervention": {"control": "other-example"}}).build()
        assert sampler.plan().untouched == ("no-other-example",)
        assert sampler.plan().needs_supply == (("intervention.control", "other-example"),)
        assert sampler.plan().arms[1].origin == "control"

    def test_only_attacked_groups_have_a_change(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        class Second(Gate):
            class Config(StrategyConfig):
                type: Literal["test/second"] = "test/second"

            needs_supply: ClassVar[bool] = False

            def leave_alone(self, views: Sequence[View], *_: Any) -> list[str | None]:
                return ["second" if view.index == 1 else None for view in views]

        with in_registry(Second):
            slots: dict[str, Any] = {"gate": "test/second"}
            attacked = apply(random_policy, views, responses, **slots)
            ours = apply(random_policy, views, responses, **slots, control="other-example")
        assert [outcome.untouched for outcome in ours] == [None, "second", None]
        free = (views[0].canvases[0] > 3 / 255) & (views[0].canvases[0] < 252 / 255)
        assert torch.equal(change_of(ours[0], views[0])[free], change_of(attacked[2], views[2])[free])

    def test_batches_of_groups_make_no_difference(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        together = apply(random_policy, views, responses, control="other-example")
        one_by_one = apply(random_policy, views, responses, control="other-example", micro_groups=1)
        for left, right in zip(together, one_by_one, strict=True):
            assert float((left.view.canvases[0] == right.view.canvases[0]).float().mean()) > 0.999


def _with_blocks(policy: Policy, change: Change, start: Tensor, point: Tensor) -> Change:
    view = replace(change.view, canvases=(start,))
    opened = OpenViews([Pixels()], policy, [change.view], scale=1.0)
    opened.views, opened.start = [view], (start,)
    return replace(change, opened=opened, point=(point,))


def naive_kl(policy: Policy, view: View, clean: View, responses: Sequence[Response]) -> float:
    """KL(view ‖ clean) by two forwards per response, over all tokens together."""
    parts = []
    for response in responses:
        p, q = (
            torch.distributions.Categorical(logits=own_forward(policy, each, response, each.canvases[0]))
            for each in (view, clean)
        )
        parts.append(torch.distributions.kl_divergence(p, q))
    return float(torch.cat(parts).mean().detach())


class TestMatchedNoise:
    @pytest.mark.parametrize("tolerance", ["1/5", "1/50"])
    @pytest.mark.parametrize("attack", [{"type": "pgd"}, {"step": "1/255", "steps": 3}, {"type": "patches", "size": 4}])
    def test_it_moves_the_policy_as_far(
        self,
        random_policy: Policy,
        views: list[View],
        responses: list[list[Response]],
        attack: dict[str, Any],
        tolerance: str,
    ) -> None:
        control = {"type": "matched-noise", "tolerance": tolerance, "trials": 30}
        attacked = apply(random_policy, views, responses, attack=attack)
        controlled = apply(random_policy, views, responses, attack=attack, control=control)
        for view, drawn, before, after in zip(views, responses, attacked, controlled, strict=True):
            target = naive_kl(random_policy, before.view, view, drawn)
            ours = naive_kl(random_policy, after.view, view, drawn)
            assert after.metrics["attack_kl"] == pytest.approx(target, rel=1e-3, abs=1e-6)
            assert after.metrics["control_kl"] == pytest.approx(ours, rel=1e-3, abs=1e-6)
            assert ours == pytest.approx(target, rel=float(eval(tolerance)) + 2e-3)
            largest = float(change_of(before, view).abs().max()) * after.metrics["noise_ratio"]
            assert float(change_of(after, view).abs().max()) <= largest + 0.5
            assert float(change_of(after, view).abs().max()) >= 0.8 * min(largest, 90) - 0.5  # room
            assert after.metrics["noise_ratio"] > 1.2  # a direction that matters takes less

    def test_it_is_uniform_and_knows_no_direction(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        (before, *_), (after, *_) = (
            apply(random_policy, views, responses, attack={"step": "1/255"}, **slots)
            for slots in ({}, {"control": "matched-noise"})
        )
        free = (views[0].canvases[0] > 0.3) & (views[0].canvases[0] < 0.7)
        noise, change = change_of(after, views[0])[free], change_of(before, views[0])[free]
        assert abs(float((noise.sign() * change.sign()).mean())) < 4 / len(noise) ** 0.5
        radius = after.metrics["noise_ratio"]
        assert scipy.stats.kstest(noise.numpy(), "uniform", args=(-radius, 2 * radius)).statistic < 0.1

    def test_where_no_noise_does_as_much_the_group_is_left_alone(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        """Ten steps move this policy further than any random picture does; one trial does not find the radius."""
        strong: dict[str, Any] = {"steps": 10, "step": "10/255"}
        (outcome,) = apply(random_policy, views[:1], responses[:1], attack=strong, control="matched-noise")
        assert outcome.untouched == "no-match"
        outcomes = apply(random_policy, views, responses, control={"type": "matched-noise", "trials": 1})
        assert [outcome.untouched for outcome in outcomes] == ["no-match"] * 3
        assert outcomes[0].view is views[0]

    def test_groups_are_matched_by_themselves(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        together = apply(random_policy, views, responses, control="matched-noise")
        alone = apply(random_policy, views[1:2], responses[1:2], control="matched-noise")
        assert float((together[1].view.canvases[0] == alone[0].view.canvases[0]).float().mean()) > 0.99

    def test_an_attack_that_does_nothing_is_matched_by_nothing(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        too_short = {"step": "1/1000"}  # less than half a grey level
        outcomes = apply(random_policy, views, responses, attack=too_short, control="matched-noise")
        for outcome, view in zip(outcomes, views, strict=True):
            assert torch.equal(outcome.view.canvases[0], view.canvases[0])
            assert outcome.metrics["noise_ratio"] == outcome.metrics["control_kl"] == 0

    def test_empty_responses_have_no_tokens(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        empty = spoken(random_policy, "", end=False)
        with_empty = apply(random_policy, views[:1], [[empty, *responses[0]]], control="matched-noise")
        without = apply(random_policy, views[:1], responses[:1], control="matched-noise")
        assert torch.equal(with_empty[0].view.canvases[0], without[0].view.canvases[0])

    def test_no_hidden_states_outlast_it(
        self, random_policy: Policy, views: list[View], responses: list[list[Response]]
    ) -> None:
        apply(random_policy, views, responses, control="matched-noise")
        assert all(values.ndim == 1 for known in random_policy.known.values() for values in known.values())


def test_several_views_of_a_group_differ_where_the_control_draws(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """Of a deterministic attack there is one view; of its shuffled values there are as many as are asked for."""
    for control, count in ((None, 1), ("other-example", 1), ("shuffled-signs", 3)):
        step = StepContext(random_policy, 0.0, GroupSources(3))
        intervention = Intervention(InterventionConfig.model_validate({"control": control}))
        outcomes = intervention.apply_repeatedly(views, responses, step, None, times=3)
        assert [len(of_group) for of_group in outcomes] == [count] * 3
    first, second, _ = (outcome.view.canvases[0] for outcome in outcomes[0])
    assert not torch.equal(first, second)


class Stray(Attack):
    """Breaks its contract, as anyone's attack may."""

    spaces = frozenset({"pixels"})

    class Config(StrategyConfig):
        type: Literal["test/stray"] = "test/stray"
        how: Literal["outside", "nan"] = "outside"

    def radius(self, block: BlockSpace) -> float:
        return 2 / 255

    def attack(self, criterion: Any, start: Point, **_: Any) -> Point:
        if self.config.how == "nan":
            return tuple(block * torch.nan for block in start)
        return tuple((block + 3 / 255).clamp(0, 1) for block in start)


@pytest.mark.parametrize(("how", "said"), [("outside", "leaves its linf ball"), ("nan", "not finite")])
def test_an_attack_that_breaks_its_contract_is_stopped(
    how: Any, said: str, random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    with pytest.raises(TrainingError, match=rf"attack 'test/stray' returns keeps its contract\. Here .*{said}"):
        apply(random_policy, views, responses, attack=Stray.Config(how=how))


def test_a_control_that_breaks_its_contract_is_stopped(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    for problem, said in (("nan", "not finite"), ("grid", "off the grid"), ("bounds", "leaves the bounds")):
        with pytest.raises(TrainingError, match=rf"control 'test/broken' returns keeps its contract\. Here .*{said}"):
            apply(random_policy, views, responses, control=broken(BREACHES[problem][0]))


def test_a_control_of_other_spaces_is_refused() -> None:
    control = broken(lambda *_: [], spaces=frozenset({"embeddings"}))
    with pytest.raises(ConfigError, match=r"Controls move surfaces in the spaces.*'test/broken' moves in embeddings"):
        Intervention(InterventionConfig(control=control))


@pytest.mark.parametrize("attack", [{"steps": 0}, {"step": 0}, {"step": "1/255", "radius": 0}], ids=str)
def test_of_an_attack_that_moves_nothing_there_is_no_control(attack: dict[str, Any]) -> None:
    assert InterventionConfig.model_validate({"attack": attack}).control is None
    for slots in ({"control": "matched-noise"}, {"strength": "sigmoid"}):
        with pytest.raises(ValidationError, match="the attack 'pgd' moves nothing"):
            InterventionConfig.model_validate({"attack": attack, **slots})


def test_what_a_control_leaves_alone_counts_as_nothing_to_move() -> None:
    """Else a run all of whose noise finds no match would go on as plain GRPO."""
    sampler = Mixed.Config.model_validate({"intervention": {"control": "matched-noise", "gate": "all-wrong"}}).build()
    plan = sampler.plan()
    assert (plan.lacking, plan.untouched) == (("no-image", "no-match"), ("no-match", "varies", "all-right"))
    counts = NothingToMove(0.5, plan.lacking)
    counts.count({"untouched/no-match": 0.5, "untouched/varies": 0.5}, 64)
    assert counts.problem() is None
    counts.count({"untouched/no-match": 0.75, "untouched/no-image": 0.25}, 64)
    problem = counts.problem()
    assert problem is not None
    assert "or the control in its place" in problem.rule
    assert "96 of 128 had nothing (no-image, no-match)" in problem.reason


def test_names() -> None:
    assert [config.type for config in registered("control")] == ["matched-noise", "other-example", "shuffled-signs"]
    assert [ShuffledSigns.needs_supply, OtherExample.needs_supply, MatchedNoise.needs_supply] == [False, True, False]
