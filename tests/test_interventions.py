"""Interventions: criteria by hand, and the attack against a naive one through the model's own forward."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from groups import draw, no_grades, own_forward, spoken
from saei.attacks.base import Attack, Point
from saei.attacks.diffusion import DiffusionNoise
from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.entropy.selectors.band import MiddleThird
from saei.entropy.selectors.base import Selector, TokenStats
from saei.entropy.selectors.topk import TopK
from saei.errors import ConfigError, ModelError
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.interventions.base import Criterion
from saei.interventions.context import StepContext, Supply
from saei.interventions.criteria import NLL, Entropy
from saei.interventions.group_criterion import token_stats
from saei.interventions.strengths import Constant
from saei.need import Need
from saei.policy import Policy, Scores
from saei.policy.load.parts import vision_tower
from saei.policy.load.weights import Parts
from saei.policy.pixels.space import GRID, to_image
from saei.runtime.seeds import GroupSources
from saei.testing import check_criterion, registered
from saei.types import ADVERSARIAL, Example, Grade, Response, View

STEP = 2 / 255
NO_VIEW = View(Example("t", "q", "a"), "clean", torch.zeros(1).long(), torch.zeros(1, 1).long())


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    return [random_policy.view(bars.example(i)) for i in range(2)]


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    return draw(random_policy, views, [3, 2])


def apply(
    policy: Policy, views: list[View], responses: list[list[Response]], grade: Any = no_grades, **slots: Any
) -> list[Outcome]:
    step = StepContext(policy, 0.0, GroupSources(0))
    return Intervention(InterventionConfig(**slots)).apply(views, responses, step, Supply(grade))


def middle(response: Response) -> list[int]:
    """The positions of a response's middle third, found by sorting."""
    entropies, length = response.entropy_T.tolist(), len(response)
    return sorted(range(length), key=lambda t: (entropies[t], t))[length // 3 : length - length // 3]


def naive_J(policy: Policy, view: View, responses: list[Response], canvas: Tensor, kind: str = "entropy") -> Tensor:
    """The criterion by one forward per response."""
    means = []
    for response in responses:
        logp_TV = own_forward(policy, view, response, canvas)
        if kind == "entropy":
            values_T = torch.distributions.Categorical(logits=logp_TV).entropy()
        else:
            values_T = -logp_TV.gather(-1, response.ids_T[:, None])[:, 0]
        means.append(values_T[middle(response)].mean())
    return torch.stack(means).mean()


def naive_gradient(
    policy: Policy, view: View, responses: list[Response], canvas: Tensor, kind: str = "entropy"
) -> Tensor:
    point = canvas.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(naive_J(policy, view, responses, point, kind), point)
    return gradient


def moved(canvas: Tensor, gradient: Tensor, step: float = STEP) -> Tensor:
    """One signed step on the 8-bit grid."""
    return ((canvas + step * gradient.sign()).clamp(0, 1) * 255).round() / 255


def assert_same_canvas(ours: Tensor, expected: Tensor, gradient: Tensor) -> None:
    """Equal wherever the gradient is more than rounding noise, which is almost everywhere."""
    certain = gradient.abs() > 1e-4 * gradient.abs().max()
    assert float(certain.float().mean()) > 0.95
    torch.testing.assert_close(ours[certain], expected[certain], atol=1e-6, rtol=0)


# Criteria


@pytest.fixture
def scores() -> Scores:
    """Three responses of 3, 2 and 1 tokens."""
    return Scores(
        logp_NT=torch.tensor([[-0.5, -4.0, -1.0], [-2.0, -3.0, 0.0], [-9.0, 0.0, 0.0]]),
        entropy_NT=None,
        mask_NT=torch.tensor([[True, True, True], [True, True, False], [True, False, False]]),
        statistics={
            Need("entropy", grad=True): torch.tensor([[1.0, 2.0, 6.0], [0.5, 1.5, 0.0], [8.0, 0.0, 0.0]]),
        },
    )


@pytest.mark.parametrize(
    ("criterion", "pooled", "expected"),
    [
        (Entropy, False, ((2.0 + 6.0) / 2 + 0.5) / 2),
        (Entropy, True, (2.0 + 6.0 + 0.5) / 3),
        (NLL, False, ((4.0 + 1.0) / 2 + 2.0) / 2),
        (NLL, True, (4.0 + 1.0 + 2.0) / 3),
    ],
)
def test_criteria_by_hand(scores: Scores, criterion: type[Entropy], pooled: bool, expected: float) -> None:
    # The third response has nothing selected: it does not count as a response of 0.
    selected_NT = torch.tensor([[False, True, True], [True, False, False], [False, False, False]])
    assert float(criterion().value(scores, selected_NT, pooled=pooled)) == pytest.approx(expected)


@pytest.mark.parametrize("config", registered("criterion"), ids=lambda config: config.type)
def test_contract(config: StrategyConfig) -> None:
    check_criterion(config)


def test_the_contract_catches_a_criterion_that_reads_undeclared_entropies() -> None:
    class Sneaky(Entropy):
        needs = frozenset()  # type: ignore[assignment]

        class Config(StrategyConfig):
            type: Literal["sneaky"] = "sneaky"

    with pytest.raises(AssertionError, match="reads only what its needs declare"):
        check_criterion(Sneaky())


def test_the_contract_catches_a_criterion_that_asks_for_what_it_does_not_read() -> None:
    class Greedy(NLL):
        needs = frozenset({Need("entropy", grad=True)})  # type: ignore[assignment]

        class Config(StrategyConfig):
            type: Literal["greedy"] = "greedy"

    with pytest.raises(AssertionError, match="what it declares as a need, it reads"):
        check_criterion(Greedy())


class Distance(Criterion):
    """How far the moved view is from the clean one: the divergence over the whole vocabulary."""

    FROM_CLEAN: ClassVar[Need] = Need("kl", view="clean", grad=True)

    class Config(StrategyConfig):
        type: Literal["test/distance"] = "test/distance"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({self.FROM_CLEAN})

    def per_token(self, scores: Scores) -> Tensor:
        return scores.statistics[self.FROM_CLEAN]


def test_a_criterion_may_be_the_distance_from_the_clean_view(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """From a random start, where it is not at its minimum; J is what the clean and the moved distributions say."""
    check_criterion(Distance.Config())
    attack = {"type": "pgd", "steps": 3, "random_start": True}
    found = {}
    for direction in ("raise", "lower"):
        config = InterventionConfig(criterion=Distance.Config(), attack={**attack, "direction": direction})
        step = StepContext(random_policy, 0.0, GroupSources(0, "sample"))
        outcomes = Intervention(config).apply(views, responses, step)
        moved_views = [outcome.view for outcome in outcomes]
        of_views = random_policy.statistics([Need("kl", view="clean")], moved_views, responses, clean=views)
        found[direction] = float(torch.cat([own[Need("kl", view="clean")].flatten() for own in of_views]).sum())
    assert found["raise"] > 1.5 * found["lower"] > 0


def test_no_hidden_states_outlast_an_attack(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    apply(random_policy, views, responses, criterion=Distance.Config(), attack=PGD.Config(random_start=True))
    assert all(values.ndim == 1 for known in random_policy.known.values() for values in known.values())


@pytest.mark.parametrize("slot", ["selector", "criterion", "gate", "guard"])
def test_a_slot_that_needs_what_nothing_fills_is_refused(slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type(getattr(Intervention(), slot))
    monkeypatch.setattr(cls, "needs", frozenset({Need("entrpy")}))
    with pytest.raises(ConfigError, match=f"The {slot} '{cls.name()}' needs what nothing fills") as refused:
        Intervention()
    assert "entropy" in refused.value.remedy
    monkeypatch.setattr(cls, "needs", frozenset({Need("logp", policy="reference")}))
    with pytest.raises(ConfigError, match="there is no reference policy"):
        Intervention()


def test_the_contract_catches_a_criterion_that_mixes_responses() -> None:
    class Centred(NLL):
        class Config(StrategyConfig):
            type: Literal["centred"] = "centred"

        def per_token(self, scores: Scores) -> Tensor:
            return scores.logp_NT - scores.logp_NT.mean()

    with pytest.raises(AssertionError, match=r"padding changes nothing|do not depend on the others"):
        check_criterion(Centred())


# The attack


@pytest.mark.parametrize("kind", ["entropy", "nll"])
@pytest.mark.parametrize("shared", [True, False])
def test_attack_equals_a_naive_one(
    random_policy: Policy, views: list[View], responses: list[list[Response]], kind: str, shared: bool
) -> None:
    random_policy.shared_prefix = shared
    outcomes = apply(random_policy, views, responses, criterion=kind)
    for view, own, outcome in zip(views, responses, outcomes, strict=True):
        (clean,) = view.canvases
        gradient = naive_gradient(random_policy, view, own, clean, kind)
        assert_same_canvas(outcome.view.canvases[0], moved(clean, gradient), gradient)
        assert outcome.view.origin == ADVERSARIAL
        assert outcome.untouched is None
        assert outcome.metrics["criterion"] == pytest.approx(
            float(naive_J(random_policy, view, own, clean, kind).detach()), abs=1e-5
        )
        assert outcome.metrics["selected"] == sum(len(middle(response)) for response in own)


def test_several_steps_equal_naive_ones(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    (outcome,) = apply(random_policy, views[:1], responses[:1], attack={"type": "pgd", "steps": 2, "radius": "3/255"})
    (clean,) = views[0].canvases
    once = moved(clean, naive_gradient(random_policy, views[0], responses[0], clean))
    gradient = naive_gradient(random_policy, views[0], responses[0], once)
    twice = moved(once, gradient).clamp(clean - 3 / 255, clean + 3 / 255)
    assert_same_canvas(outcome.view.canvases[0], (twice * 255).round() / 255, gradient)


def test_result_is_an_8_bit_picture_within_a_step(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    for view, outcome in zip(views, apply(random_policy, views, responses), strict=True):
        (clean,), (canvas,) = view.canvases, outcome.view.canvases
        assert not canvas.requires_grad
        assert torch.equal((canvas * 255).round() / 255, canvas)
        assert float((canvas - clean).abs().max()) == pytest.approx(STEP, abs=1e-6)
        assert float(canvas.min()) >= 0
        assert float(canvas.max()) <= 1
        assert torch.equal(through_png(random_policy, canvas), canvas)


def through_png(policy: Policy, canvas: Tensor) -> Tensor:
    file = io.BytesIO()
    to_image(canvas).save(file, "PNG")
    return policy.pixels.canvas(Image.open(file))


@pytest.mark.parametrize("direction", ["raise", "lower"])
def test_one_step_moves_the_selected_entropy(
    random_policy: Policy, views: list[View], responses: list[list[Response]], direction: str
) -> None:
    outcomes = apply(random_policy, views, responses, attack={"direction": direction})
    with torch.no_grad():
        for view, own, outcome in zip(views, responses, outcomes, strict=True):
            before = naive_J(random_policy, view, own, view.canvases[0])
            after = naive_J(random_policy, view, own, through_png(random_policy, outcome.view.canvases[0]))
            assert float(after - before) * (1 if direction == "raise" else -1) > 1e-3


@pytest.mark.parametrize("value", [0.0, 0.5, 2.0])
def test_strength_scales_the_step(
    random_policy: Policy, views: list[View], responses: list[list[Response]], value: float
) -> None:
    (outcome, _) = apply(random_policy, views, responses, strength=Constant.Config(value=value))
    change = (outcome.view.canvases[0] - views[0].canvases[0]).abs()
    assert float(change.max()) == pytest.approx(value * STEP, abs=1e-6)
    assert float(change.float().median()) == pytest.approx(value * STEP, abs=1e-6)


def test_a_step_in_normalised_pixels_is_the_models_own(
    random_policy: Policy, random_parts: Parts, views: list[View], responses: list[list[Response]]
) -> None:
    """A normalised pixel is as long as the processor's standard deviation; the ball holds whole grey levels of it."""
    outcomes = apply(random_policy, views, responses, attack=PGD.Config(step="40/255", step_space="normalised"))
    # CLIP's .2686, .2613 and .2758 make 10.7, 10.5 and 11.03 levels.
    lengths = [int(40 * spread + 1e-4) for spread in random_parts.image_processor.image_std]
    assert 40 not in lengths  # which it would be in the pixel range
    for view, outcome in zip(views, outcomes, strict=True):
        change_C = (outcome.view.canvases[0] - view.canvases[0]).abs().amax((1, 2))
        assert (change_C * 255).tolist() == pytest.approx(lengths, abs=1e-3)


def test_a_step_between_two_grey_levels_is_rounded(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    outcomes = apply(random_policy, views, responses, attack=PGD.Config(step=Fraction(7, 1275)))  # 1.4 / 255
    for view, outcome in zip(views, outcomes, strict=True):
        change = (outcome.view.canvases[0] - view.canvases[0]).abs()
        assert float(change.max()) == pytest.approx(GRID, abs=1e-6)
        assert torch.equal(through_png(random_policy, outcome.view.canvases[0]), outcome.view.canvases[0])


class Fragile(Entropy):
    """Breaks down in groups of three responses."""

    class Config(StrategyConfig):
        type: Literal["fragile"] = "fragile"

    def per_token(self, scores: Scores) -> Tensor:
        return super().per_token(scores) * (torch.nan if len(scores.logp_NT) == 3 else 1)


def test_a_gradient_that_is_no_number_stays_in_its_group(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    broken, sound = apply(random_policy, views, responses, criterion=Fragile.Config())
    assert torch.equal(broken.view.canvases[0], views[0].canvases[0])
    assert float((sound.view.canvases[0] - views[1].canvases[0]).abs().median()) == pytest.approx(STEP, abs=1e-6)


def test_micro_groups_give_the_same_views(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    whole = apply(random_policy, views, responses)
    one_by_one = apply(random_policy, views, responses, micro_groups=1)
    for view, own, together, alone in zip(views, responses, whole, one_by_one, strict=True):
        gradient = naive_gradient(random_policy, view, own, view.canvases[0])
        assert_same_canvas(alone.view.canvases[0], together.view.canvases[0], gradient)
        assert alone.metrics == pytest.approx(together.metrics, abs=1e-5)


def test_empty_responses_are_left_out(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    empty = spoken(random_policy, "", end=False)
    (with_empty,) = apply(random_policy, views[:1], [[empty, *responses[0], empty]])
    (without,) = apply(random_policy, views[:1], responses[:1])
    assert torch.equal(with_empty.view.canvases[0], without.view.canvases[0])
    assert with_empty.metrics == without.metrics


@pytest.mark.parametrize(
    "attack", [{"type": "pgd", "random_start": True, "radius": "4/255"}, {"type": "noise"}, "diffusion-noise"]
)
def test_attacks_that_draw_are_made_together(
    random_policy: Policy,
    views: list[View],
    responses: list[list[Response]],
    attack: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One call for all groups, and each ends where it ends alone: what it draws is by its index."""
    views = [replace(view, index=number) for number, view in enumerate(views)]
    alone = [apply(random_policy, [v], [r], attack=attack)[0] for v, r in zip(views, responses, strict=True)]
    sizes: list[int] = []
    for cls in (PGD, Noise, DiffusionNoise):
        original = cls.attack

        def watched(self: Any, criterion: Any, start: Any, _original: Any = original, **rest: Any) -> Any:
            sizes.append(len(start))
            return _original(self, criterion, start, **rest)

        monkeypatch.setattr(cls, "attack", watched)
    together = apply(random_policy, views, responses, attack=attack)
    assert sizes == [2]
    for one, other in zip(alone, together, strict=True):
        assert float((one.view.canvases[0] == other.view.canvases[0]).float().mean()) > 0.999
    first, second = (o.view.canvases[0] - v.canvases[0] for o, v in zip(together, views, strict=True))
    assert not torch.equal(first, second)


def test_a_group_without_selection_leaves_the_others_alone(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    only_form = [spoken(random_policy, "<think></think>")]
    selector = {"type": "middle-third", "exclude": ["eos", "template"]}
    nothing, attacked = apply(random_policy, views, [only_form, responses[1]], selector=selector)
    assert (nothing.untouched, nothing.view) == ("empty", views[0])
    (alone,) = apply(random_policy, views[1:], responses[1:], selector=selector)
    gradient = attacked.view.canvases[0] - views[1].canvases[0]
    assert float(gradient.abs().min()) > 0  # a NaN from the empty group would have stopped all of it
    assert float((attacked.view.canvases[0] == alone.view.canvases[0]).float().mean()) > 0.999


def test_untouched_groups_say_why(random_policy: Policy, views: list[View], responses: list[list[Response]]) -> None:
    text_only = random_policy.view(Example("t", "What is 1 + 2?", "3"))
    (said,) = draw(random_policy, [text_only], [2])
    silent = [spoken(random_policy, "", end=False)] * 2
    outcomes = apply(
        random_policy, [text_only, views[0], views[1]], [said, silent, responses[1]], attack={"type": "noise"}
    )
    assert [outcome.untouched for outcome in outcomes] == ["no-image", "empty", None]
    assert [outcome.view for outcome in outcomes[:2]] == [text_only, views[0]]
    assert outcomes[2].view.canvases[0].shape == views[1].canvases[0].shape


def test_gates(random_policy: Policy, views: list[View], responses: list[list[Response]]) -> None:
    correct = {id(views[0]): [True, True, True], id(views[1]): [True, False]}

    def grade(view: View, own: list[Response]) -> list[Grade]:
        assert len(own) == len(correct[id(view)])
        return [Grade(random.random(), flag) for flag in correct[id(view)]]  # rewards differ, accuracy does not

    def reasons(gate: str) -> list[str | None]:
        outcomes = apply(random_policy, views, responses, grade, gate=gate, attack={"type": "noise"})
        return [outcome.untouched for outcome in outcomes]

    assert reasons("zero-variance") == [None, "varies"]
    assert reasons("always") == [None, None]
    correct[id(views[0])] = [False, False, False]
    assert reasons("zero-variance") == [None, "varies"]
    correct[id(views[0])] = [False, False, True]
    assert reasons("zero-variance") == ["varies", "varies"]


# The selection


class Recorder(Selector):
    """Selects every valid token whose entropy is above the response's mean, and records what it saw."""

    seen: ClassVar[list[TokenStats]] = []

    class Config(Selector.Config):
        type: Literal["recorder"] = "recorder"

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(stats)
        mean_N1 = (stats.entropy_NT * stats.valid_NT).sum(1, keepdim=True) / stats.valid_NT.sum(1, keepdim=True)
        return self.candidates(stats) & (stats.entropy_NT >= mean_N1)


@pytest.mark.parametrize("reselect", [False, True])
def test_the_selection_is_frozen_unless_reselected(
    random_policy: Policy, views: list[View], responses: list[list[Response]], reselect: bool
) -> None:
    Recorder.seen.clear()
    pgd = PGD.Config(steps=2, step=Fraction(8, 255))
    (outcome,) = apply(
        random_policy, views[:1], responses[:1], selector=Recorder.Config(), attack=pgd, reselect=reselect
    )
    seen = list(Recorder.seen)
    assert len(seen) == (3 if reselect else 1)
    sampled = [response.entropy_T for response in responses[0]]
    for n, entropy_T in enumerate(sampled):
        assert torch.equal(seen[0].entropy_NT[n, : len(entropy_T)], entropy_T)
    if not reselect:
        return
    (once,) = apply(
        random_policy,
        views[:1],
        responses[:1],
        selector=Recorder.Config(),
        attack=PGD.Config(step=Fraction(8, 255)),
    )
    for stats, view in ((seen[1], views[0]), (seen[2], once.view)):
        for n, response in enumerate(responses[0]):
            logp_TV = own_forward(random_policy, view, response).detach()
            expected = torch.distributions.Categorical(logits=logp_TV).entropy()
            torch.testing.assert_close(stats.entropy_NT[n, : len(response)], expected, atol=5e-5, rtol=0)
    assert not torch.allclose(seen[2].entropy_NT, seen[1].entropy_NT, atol=1e-2)
    assert outcome.untouched is None


def test_token_statistics_of_hand_made_responses(random_policy: Policy) -> None:
    own = [spoken(random_policy, "<think> red </think> \\boxed{3}"), spoken(random_policy, "red < 3", end=False)]
    assert [len(response) for response in own] == [7, 3]
    stats = token_stats(random_policy, NO_VIEW, own, frozenset({Need("eos"), Need("template")}))
    pad = [False] * 4
    assert stats.valid_NT.tolist() == [[True] * 7, [True] * 3 + pad]
    assert stats.statistics[Need("eos")].tolist() == [[False] * 6 + [True], [False] * 7]
    assert stats.statistics[Need("template")].tolist() == [
        [True, False, True, True, False, True, False],  # <think>, red, </think>, \boxed{, 3, }, end
        [False] * 7,
    ]
    assert stats.entropy_NT.tolist() == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 0, 0, 0]]
    assert stats.logp_NT.tolist() == [[0, -1, -2, -3, -4, -5, -6], [0, -1, -2, 0, 0, 0, 0]]
    assert stats.ids_NT[0].tolist() == own[0].ids_T.tolist()
    assert token_stats(random_policy, NO_VIEW, own, frozenset()).statistics == {}


def test_given_tokens_do_not_count_for_selectors(random_policy: Policy) -> None:
    own = [spoken(random_policy, "<think> red </think> \\boxed{3}"), spoken(random_policy, "red < 3", end=False)]
    given = [replace(own[0], forced=2), replace(own[1], forced=3)]
    stats = token_stats(random_policy, NO_VIEW, given, frozenset({Need("eos")}))
    assert stats.valid_NT.tolist() == [[False] * 2 + [True] * 5, [False] * 7]
    selected_NT = TopK(TopK.Config(count=3)).select(stats, progress=0.0, generator=torch.Generator())
    assert selected_NT.tolist() == [[False] * 4 + [True] * 3, [False] * 7]


def test_every_occurrence_of_a_literal_is_template(random_policy: Policy) -> None:
    twice = spoken(random_policy, "\\boxed{3} red \\boxed{3}", end=False)
    stats = token_stats(random_policy, NO_VIEW, [twice], frozenset({Need("template")}))
    box = [True, False, True]  # \boxed{, 3, }
    assert stats.statistics[Need("template")].tolist() == [[*box, False, *box]]


def test_spelled_literals_are_template_too(random_policy: Policy) -> None:
    ids = [id_ for text in ("<", "think", ">") for id_ in random_policy.tokenizer(text)["input_ids"]]
    ramp = torch.zeros(3)
    response = Response(torch.tensor(ids), "<think>", ramp, ramp, truncated=True)
    stats = token_stats(random_policy, NO_VIEW, [response], frozenset({Need("template")}))
    assert stats.statistics[Need("template")].tolist() == [[True, True, True]]


# What must not happen


@pytest.mark.parametrize("reselect", [False, True])
def test_an_attack_needs_the_head_for_selected_tokens_only(
    random_policy: Policy, views: list[View], responses: list[list[Response]], reselect: bool
) -> None:
    """Two steps are two passes, and the hook makes the head one whose logits are computed once in each."""
    rows: list[int] = []
    head = random_policy.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    try:
        apply(random_policy, views, responses, attack=PGD.Config(steps=2), reselect=reselect)
    finally:
        handle.remove()
    spoken = [response for own in responses for response in own if len(response)]
    chosen = sum(len(response if reselect else middle(response)) for response in spoken)
    assert rows == [chosen] * 2


def test_an_attack_leaves_no_trace(random_policy: Policy, views: list[View], responses: list[list[Response]]) -> None:
    parameters = dict(random_policy.module.named_parameters())
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    first = next(iter(parameters.values()))
    first.grad, frozen = torch.ones_like(first), next(reversed(parameters.values()))
    frozen.requires_grad_(False)
    canvases = [view.canvases[0].clone() for view in views]
    state = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    try:
        apply(random_policy, views, responses, attack=PGD.Config(random_start=True))
        assert (torch.get_rng_state() == state[0]).all()
        assert (random.getstate(), repr(np.random.get_state())) == state[1:]  # noqa: NPY002
        assert all(torch.equal(values[name], parameter) for name, parameter in parameters.items())
        assert torch.equal(first.grad, torch.ones_like(first))
        assert [name for name, p in parameters.items() if p.grad is not None] == [next(iter(parameters))]
        assert [p for p in parameters.values() if not p.requires_grad] == [frozen]
        assert not any(module.training for module in random_policy.model.modules())
        assert all(torch.equal(a, view.canvases[0]) for a, view in zip(canvases, views, strict=True))
    finally:
        first.grad = None
        frozen.requires_grad_(True)


def test_random_starts_come_from_the_generator(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    slots = {"attack": Noise.Config()}
    first, again = (apply(random_policy, views, responses, **slots) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.view.canvases[0], other.view.canvases[0])
    (ours,), (theirs,) = (outcome.view.canvases for outcome in first)
    assert not torch.equal(ours - views[0].canvases[0], theirs - views[1].canvases[0])


def test_an_attack_on_something_else_is_refused() -> None:
    class Elsewhere(Attack):
        spaces: ClassVar[frozenset[str]] = frozenset({"embeddings"})

        class Config(StrategyConfig):
            type: Literal["elsewhere"] = "elsewhere"

        def attack(self, criterion: Any, start: Point, **rest: Any) -> Point:
            return start

    with pytest.raises(ConfigError, match="'elsewhere' moves in embeddings, not pixels"):
        Intervention(InterventionConfig(attack=Elsewhere.Config()))


def test_a_model_without_pixel_gradient_is_refused(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    def cut(module: Any, arguments: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.detach()
        if isinstance(output, Mapping):
            return type(output)(**{key: cut(module, arguments, value) for key, value in output.items()})
        return None if output is None else tuple(cut(module, arguments, one) for one in output)

    handle = vision_tower(random_policy.model).register_forward_hook(cut)
    try:
        with pytest.raises(ModelError) as raised:
            apply(random_policy, views, responses)
    finally:
        handle.remove()
    assert raised.value.rule
    assert "vision tower" in raised.value.reason
    assert "noise" in raised.value.remedy


def test_the_default_is_the_paper() -> None:
    intervention = Intervention()
    assert isinstance(intervention.selector, MiddleThird)
    assert isinstance(intervention.criterion, Entropy)
    assert isinstance(intervention.attack, PGD)
    config = intervention.config.attack
    assert (config.steps, config.step, config.direction) == (1, Fraction(2, 255), "raise")  # type: ignore[attr-defined]
    assert pytest.approx(1 / 255) == GRID


def test_two_images_move_together(random_policy: Policy, bars: Bars) -> None:
    pictures = (bars.example(0).images[0], bars.example(1).images[0])
    view = random_policy.view(replace(bars.example(0), images=pictures))
    (own,) = draw(random_policy, [view], [2])
    (outcome,) = apply(random_policy, [view], [own])
    for clean, canvas in zip(view.canvases, outcome.view.canvases, strict=True):
        assert float((canvas - clean).abs().median()) == pytest.approx(STEP, abs=1e-6)


def test_a_step_tells_gates_what_they_need(random_policy: Policy, views: list[View]) -> None:
    """What the sampling pass found out, and marks; a divergence between views where it is asked for."""
    (responses,) = draw(random_policy, views[:1], [3])
    step = StepContext(random_policy, progress=0.0, sources=GroupSources(0, "sample"))
    (found,) = step.statistics([Need("entropy"), Need("eos")], views[:1], [responses])
    for n, response in enumerate(responses):
        assert torch.equal(found[Need("entropy")][n, : len(response)], response.entropy_T)
        assert torch.equal(found[Need("eos")][n, : len(response)], torch.isin(response.ids_T, random_policy.eos_ids))
    from_clean = Need("kl", view="clean")
    other = replace(views[0], canvases=(1 - views[0].canvases[0],))
    (apart,) = step.statistics([from_clean], views[:1], [responses], clean=[other])
    assert float(apart[from_clean].max()) > 1e-4
