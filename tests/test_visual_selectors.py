"""View makers, and the selectors that compare a view with a changed one: against the model's own forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from groups import cut, draw, no_grades, own_forward, token_logp
from runs import registered, tiny
from saei.data.base import Split, Task
from saei.engine.setup import build_strategies, open_data
from saei.entropy.selectors.base import Selector, TokenStats
from saei.entropy.selectors.entropy_visual import EntropyVisual
from saei.entropy.selectors.visual import Visual
from saei.entropy.selectors.visual_logp import VisualLogp
from saei.errors import DataError, TrainingError
from saei.intake.reports import ExampleReport
from saei.intake.stream import ViewStream
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.interventions.context import StepContext, Supply
from saei.interventions.group_criterion import token_stats
from saei.need import Need
from saei.objectives.batch import Row, UpdateBatch
from saei.objectives.weights.selected import Selected
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.policy.pixels.space import to_image
from saei.policy.statistics.needs import check_needs
from saei.runtime.processes import Processes
from saei.runtime.seeds import GroupSources
from saei.types import Example, Response, View
from saei.views import BlackPatches, Blank, needs_picture


@pytest.fixture(scope="module", params=["qwen", "llava"])
def random_parts(request: pytest.FixtureRequest, random_parts: Parts, llava_parts: Parts) -> Parts:
    return {"qwen": random_parts, "llava": llava_parts}[request.param]


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    return draw(random_policy, views, [3, 2])


@pytest.fixture
def text_only(random_policy: Policy) -> View:
    return random_policy.view(Example("t", "What is 1 + 2?", "3"), 5)


# --- view makers ----------------------------------------------------------------------------------------------------


def test_a_blank_view_shows_one_grey(random_policy: Policy, views: list[View], text_only: View) -> None:
    blank = Blank(Blank.Config(grey=51)).make_view(random_policy, views[0])
    assert [float(blank.canvases[0].min()), float(blank.canvases[0].max())] == pytest.approx([0.2, 0.2])
    assert np.asarray(to_image(blank.canvases[0])).min() == np.asarray(to_image(blank.canvases[0])).max() == 51
    assert blank.canvases[0].shape == views[0].canvases[0].shape
    assert (blank.origin, blank.index, blank.example) == ("blank", views[0].index, views[0].example)
    assert torch.equal(blank.prompt_ids_P, views[0].prompt_ids_P)
    assert Blank().make_view(random_policy, text_only) is text_only


def test_patches_turn_black_as_wholes_and_about_as_often_as_asked(random_policy: Policy, text_only: View) -> None:
    white = replace(text_only, canvases=(torch.ones(3, 150, 131), torch.ones(3, 150, 131)))
    maker = BlackPatches(BlackPatches.Config(patch=10, probability=Fraction(1, 4)))
    first, second = maker.make_view(random_policy, white).canvases
    black = []
    for top in range(0, 150, 10):
        for left in range(0, 131, 10):
            patch = first[:, top : top + 10, left : left + 10]
            assert float(patch.min()) == float(patch.max())  # as a whole, in all channels, also at the edge
            black.append(float(patch.max()) == 0)
    assert len(black) == 15 * 14
    assert abs(np.mean(black) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(black))  # four standard errors
    assert not torch.equal(first, second)
    again = maker.make_view(random_policy, white).canvases
    assert torch.equal(again[0], first)  # a function of the view
    elsewhere = maker.make_view(random_policy, replace(white, index=6)).canvases
    assert not torch.equal(elsewhere[0], first)
    every = BlackPatches(BlackPatches.Config(probability=Fraction(1))).make_view(random_policy, white)
    assert float(every.canvases[0].max()) == 0
    assert float(white.canvases[0].min()) == 1


def test_needs_of_changed_pictures() -> None:
    assert needs_picture([Need("eos"), Need("logp", view=Blank.Config())])
    assert needs_picture(VisualLogp().needs)
    assert not needs_picture([Need("kl", view="clean"), Need("entropy")])
    check_needs(Visual().needs | VisualLogp().needs, "A test", policies=("current",), grad=False)


# --- what is ranked, by the model's own forward ---------------------------------------------------------------------


def grey(view: View, level: int = 128) -> View:
    return replace(view, canvases=tuple(torch.full_like(canvas, level / 255) for canvas in view.canvases))


@torch.no_grad()
def divergence(policy: Policy, view: View, response: Response, level: int = 128) -> Tensor:
    p, q = (Categorical(logits=own_forward(policy, each, response)) for each in (view, grey(view, level)))
    return kl_divergence(p, q)


@torch.no_grad()
def estimate(policy: Policy, view: View, response: Response) -> Tensor:
    black = BlackPatches().make_view(policy, view)
    d_T = token_logp(policy, black, response) - token_logp(policy, view, response)
    return d_T.exp() - 1 - d_T


def product(policy: Policy, view: View, response: Response) -> Tensor:
    return divergence(policy, view, response) * response.entropy_T


SCORES: dict[type[Selector], Callable[[Policy, View, Response], Tensor]] = {
    Visual: divergence,
    VisualLogp: estimate,
    EntropyVisual: product,
}


def highest(scores_T: Tensor, share: Fraction = Fraction(2, 5)) -> list[int]:
    """The places of the highest scores, by sorting."""
    order = sorted(range(len(scores_T)), key=lambda t: (float(scores_T[t]), t))
    return sorted(order[len(order) - math.ceil(len(order) * share) :])


@pytest.mark.parametrize("kind", SCORES, ids=lambda kind: kind.name())
def test_the_tokens_that_depend_on_the_picture(
    kind: type[Selector], random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    selector = kind()
    spread = []
    for view, drawn in zip(views, responses, strict=True):
        stats = token_stats(random_policy, view, drawn, selector.needs)
        mask_NT = selector.select(stats, progress=0.0, generator=torch.Generator())
        for n, response in enumerate(drawn):
            expected_T = SCORES[kind](random_policy, view, response)
            scores_T = selector.scores(stats)[n, : len(response)]  # type: ignore[attr-defined]
            torch.testing.assert_close(scores_T, expected_T, atol=3e-5, rtol=1e-3)
            assert mask_NT[n].nonzero().flatten().tolist() == highest(scores_T)
            spread += expected_T.tolist()
    assert max(spread) > 1e-2


def test_the_grey_is_the_configured_one(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    selector = Visual(Visual.Config(grey=0))
    stats = token_stats(random_policy, views[0], responses[0], selector.needs)
    expected_T = divergence(random_policy, views[0], responses[0][0], 0)
    torch.testing.assert_close(selector.scores(stats)[0, : len(expected_T)], expected_T, atol=3e-5, rtol=1e-3)
    assert float((expected_T - divergence(random_policy, views[0], responses[0][0])).abs().max()) > 1e-4


# --- in an intervention ---------------------------------------------------------------------------------------------


def apply(policy: Policy, views: list[View], responses: Sequence[list[Response]], **slots: Any) -> list[Outcome]:
    step = StepContext(policy, 0.0, GroupSources(0), traced=True)
    return Intervention(InterventionConfig(**slots)).apply(views, responses, step, Supply(no_grades))


def test_an_intervention_selects_by_the_picture(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    outcomes = apply(random_policy, views, responses, selector="visual")
    for outcome, view, drawn in zip(outcomes, views, responses, strict=True):
        stats = token_stats(random_policy, view, drawn, Visual().needs)
        assert outcome.record is not None
        assert outcome.record.trace is not None
        for n, (selected_T, response) in enumerate(zip(outcome.record.trace.selected_NT, drawn, strict=True)):
            expected = highest(stats.statistics[Visual().divergence][n, : len(response)])
            assert selected_T.nonzero().flatten().tolist() == expected


class Watching(Visual):
    """`visual` that keeps the scores that it was asked with."""

    seen: list[Tensor] = []  # noqa: RUF012  # of the class, since an intervention builds its own

    class Config(Visual.Config):
        type: Literal["test/watching"] = "test/watching"  # type: ignore[assignment]

    def scores(self, stats: TokenStats) -> Tensor:
        self.seen.append(super().scores(stats))
        return self.seen[-1]


def test_reselection_goes_by_the_picture_that_the_attack_has_come_to(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    step = {"type": "pgd", "step": "8/255"}
    with registered(Watching):
        Watching.seen.clear()
        slots: dict[str, Any] = {"selector": "test/watching", "attack": step | {"steps": 2}, "reselect": True}
        (twice,) = apply(random_policy, views[:1], responses[:1], **slots)
        (once,) = apply(random_policy, views[:1], responses[:1], selector="visual", attack=step, reselect=True)
    assert len(Watching.seen) == 4  # the sampling pass, the start, the end of each step, the last of them measured
    for scores_NT, view in zip(Watching.seen[1:], (views[0], once.view, twice.view), strict=True):
        for scores_T, response in zip(scores_NT, responses[0], strict=True):
            expected_T = divergence(random_policy, view, response)
            torch.testing.assert_close(scores_T[: len(response)], expected_T, atol=3e-5, rtol=1e-3)
    assert float((Watching.seen[1] - Watching.seen[2]).abs().max()) > 1e-3


class Everything(Selector):
    """Marks padding, too."""

    class Config(Selector.Config):
        type: Literal["test/everything"] = "test/everything"

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.ones_like(stats.valid_NT)


def test_a_selector_that_leaves_its_tokens_is_stopped_by_name(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    uneven = [cut(responses[0][0], 2), responses[0][1]]
    with pytest.raises(TrainingError, match="The selector 'test/everything' marked"):
        apply(random_policy, views[:1], [uneven], selector=Everything.Config())
    batch = UpdateBatch(
        rows=(Row(0, 0, 0),),
        ids_RT=torch.zeros(1, 3, dtype=torch.int64),
        mask_RT=torch.tensor([[True, True, False]]),
        behaviour_logp_RT=torch.zeros(1, 3),
        behaviour_entropy_RT=torch.zeros(1, 3),
        advantage_RT=torch.zeros(1, 3),
        truncated_R=torch.tensor([False]),
        drawn_RT=torch.tensor([[False, True, False]]),
    )
    weight = Selected.Config(selector=Everything.Config()).build()
    with pytest.raises(TrainingError, match="'test/everything' marked 2 that are padding, were given"):
        weight.weigh(batch, progress=0.0, generator=torch.Generator())


def test_a_view_without_a_picture_is_left_alone_and_counted(
    random_policy: Policy, views: list[View], responses: list[list[Response]], text_only: View, monkeypatch: Any
) -> None:
    (said,) = draw(random_policy, [text_only], [2])
    # A surface that every view has, as one of text would.
    monkeypatch.setattr("saei.interventions.surfaces.Pixels.lacks", lambda self, view: None)
    for selector in ("visual", "visual-logp", {"type": "or", "of": ["entropy-visual", "all"]}):
        outcomes = apply(
            random_policy, [text_only, views[1]], [said, responses[1]], selector=selector, attack={"type": "noise"}
        )
        assert [outcome.untouched for outcome in outcomes] == ["no-image", None]
        assert outcomes[0].view is text_only


def test_what_the_check_finds_does_not_depend_on_the_selector(
    random_policy: Policy, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check's only token has no entropy; a selector that leaves it out would leave the attack unchecked."""
    attacks = []
    attack = Intervention._attack

    def noted(self: Intervention, *arguments: Any) -> list[Outcome]:
        outcomes = attack(self, *arguments)
        attacks.append((self.selector.name(), outcomes[0].untouched))
        return outcomes

    monkeypatch.setattr(Intervention, "_attack", noted)
    Intervention(InterventionConfig(selector="threshold")).check(random_policy, [views[0]])  # type: ignore[arg-type]
    assert attacks == [("threshold", "empty"), ("all", None)]


# --- data without pictures ------------------------------------------------------------------------------------------


class Mostly(Task):
    """Examples of which only some have a picture."""

    class Config(Task.Config):
        type: Literal["mostly"] = "mostly"
        pictures: tuple[int, ...] = ()
        examples: int | None = None

    def example(self, index: int, split: Split = "train") -> Example:
        config: Any = self.config
        images = (Image.new("RGB", (64, 64), (90, 90, 200)),) if index in config.pictures else ()
        return Example(f"{split}-{index}", "What is red?", "3", images)

    def size(self, split: Split = "train") -> int | None:
        config: Any = self.config
        size: int | None = config.examples
        return size


def opened(policy: Policy, pictures: tuple[int, ...], **changes: Any) -> None:
    with registered(Mostly):
        config = tiny(".", ".", task={"type": "mostly", "pictures": pictures}, reward="accuracy-format", **changes)  # type: ignore[arg-type]
        open_data(config, build_strategies(config), policy, Processes())


CLEAN = {"type": "clean", "n": 2}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"objective": {"type": "grpo", "token_selector": "visual"}}, "The selector 'visual'"),
    (
        {"objective": {"type": "grpo", "weights": [{"type": "selected", "selector": "visual-logp"}]}},
        "The selector 'visual-logp'",
    ),
    (
        {"objective": {"type": "grpo", "token_selector": {"type": "and", "of": ["entropy-visual", "top-k"]}}},
        "The selector 'entropy-visual'",
    ),
    ({"objective": {"type": "grpo", "weights": ["vppo"]}}, "The weight 'vppo'"),
    ({"objective": {"type": "grpo", "terms": ["entropy-bonus", "papo"]}}, "The term 'papo'"),
    ({"objective": {"type": "grpo", "terms": ["roma"]}}, "The term 'roma'"),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED, ids=lambda given: str(given)[:60])
def test_data_without_any_picture_are_refused_before_training(
    random_policy: Policy, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match="can do nothing without a picture") as refused:
        opened(random_policy, (64,), sampler=CLEAN, **changes)
    assert refused.value.rule == f"{named} can do nothing without a picture."
    assert "None of the first 64 examples of 'mostly'" in refused.value.reason
    opened(random_policy, (63,), sampler=CLEAN, **changes)


def test_an_intervention_by_the_picture_needs_one_among_the_first(random_policy: Policy) -> None:
    arms = {"n_clean": 2, "n_adversarial": 2, "intervention": {"selector": "visual"}}
    with pytest.raises(DataError, match="The selector 'visual' can do nothing without a picture"):
        opened(random_policy, (), sampler={"type": "mixed", **arms})
    with pytest.raises(DataError, match="have no image, since an image is what is moved"):
        opened(random_policy, (), sampler={"type": "mixed", **arms, "intervention": {"selector": "mass"}})


def test_examples_that_were_all_looked_at_before_are_looked_at_for_a_picture(random_policy: Policy) -> None:
    for pictures, refused in (((), True), ((3,), False), ((64,), True)):
        task = Mostly.Config(pictures=pictures, examples=70).build()
        stream = ViewStream(task, random_policy, seed=0, max_bad_share=0.1)
        stream.admit("train", [ExampleReport(index, tokens=9) for index in range(70)])
        stream.preflight()
        with pytest.raises(DataError, match="A thing can do nothing") if refused else nullcontext():
            stream.preflight(["A thing"])
