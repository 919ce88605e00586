"""Surfaces: what an attack moves, one or several at once; and the records of the views that are made so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from groups import draw
from runs import Checksum, registered, tiny, train
from saei.attacks.base import BlockSpace
from saei.attacks.noise import Noise
from saei.attacks.pgd import PGD
from saei.config.strategy import StrategyConfig
from saei.data.bars import Bars
from saei.errors import ConfigError
from saei.interventions import Intervention, InterventionConfig, Outcome
from saei.interventions.base import Opening, Surface
from saei.interventions.context import StepContext
from saei.interventions.point import OpenViews
from saei.interventions.surfaces import Pixels
from saei.policy import Policy
from saei.runtime.seeds import GroupSources, derive
from saei.testing import check_surface
from saei.testing import registered as configs
from saei.types import Distance, Example, Response, View

STEP = 2 / 255


class Ends(Surface):
    """A surface of another kind, made by the seam alone: the ids of a prompt's last two tokens, moved by whole ids."""

    class Config(StrategyConfig):
        type: Literal["ends"] = "ends"

    space = "embeddings"

    def lacks(self, view: View) -> str | None:
        return "no-text" if view.example.id == "mute" else None

    def open(self, policy: Policy, views: Sequence[View], *, scale: float) -> Opening:
        having = [number for number, view in enumerate(views) if self.lacks(view) is None]
        blocks = tuple(views[number].prompt_ids_P[-2:].float() for number in having)
        space = BlockSpace("embeddings", low=0.0, high=300.0, units={"pixel": 255.0}, scale=scale, grid=1.0)
        return Opening(blocks, (space,) * len(blocks), tuple(having))

    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        return self._with(views, blocks), {}

    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        return self._with(views, blocks)

    def _with(self, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        """Only views that have the surface are given, each with its block."""
        return [
            replace(view, prompt_ids_P=torch.cat([view.prompt_ids_P[:-2], block.detach().round().long()]))
            for view, block in zip(views, blocks, strict=True)
        ]

    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        change = (torch.cat(list(moved)) - torch.cat(list(start))).abs()
        return Distance(float((change > 0).float().mean()), float(change.max()))


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered(Checksum, Ends):
        yield


@pytest.fixture
def views(random_policy: Policy, bars: Bars) -> list[View]:
    """Two with pictures, the second of which has no text for ``Ends``, and one without a picture and other wordings."""
    first, mute = (replace(bars.example(n), wordings=bars.wordings(bars.example(n))) for n in range(2))
    examples = (first, replace(mute, id="mute"), Example("t", "What is 1 + 2?", "3"))
    return [random_policy.view(example, number) for number, example in enumerate(examples)]


@pytest.fixture
def responses(random_policy: Policy, views: list[View]) -> list[list[Response]]:
    return draw(random_policy, views, [2, 2, 2])


def apply(policy: Policy, views: Any, responses: Any, *, traced: bool = False, **slots: Any) -> list[Outcome]:
    step = StepContext(policy, 0.0, GroupSources(3), traced=traced)
    return Intervention(InterventionConfig.model_validate(slots)).apply(views, responses, step)


@pytest.mark.parametrize("config", configs("surface"), ids=lambda config: config.type)
def test_contract(config: StrategyConfig, random_policy: Policy, views: list[View]) -> None:
    check_surface(config, random_policy, views)


class Liar(Pixels):
    """Breaks one rule of the contract."""

    class Config(StrategyConfig):
        type: Literal["liar"] = "liar"
        about: str = "none"

    def lacks(self, view: View) -> str | None:
        return "no image" if self.config.about == "word" else super().lacks(view)

    def open(self, policy: Policy, views: Sequence[View], *, scale: float) -> Opening:
        opening = super().open(policy, views, scale=1.0 if self.config.about == "scale" else scale)
        if self.config.about == "sizes":
            return replace(opening, examples=opening.examples[:-1])
        if self.config.about == "order":
            return replace(opening, examples=opening.examples[::-1])
        if self.config.about == "bounds":
            return replace(opening, blocks=tuple(block + 2 for block in opening.blocks))
        return opening

    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        moved = super().moved(policy, views, blocks)
        return [replace(view, index=9) for view in moved] if self.config.about == "index" else moved

    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        factor = 0.0 if self.config.about == "scores" else 1.0
        return list(views), {"pixels": [factor * block for block in blocks]}

    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        return Distance(0.0, 1.0) if self.config.about == "distance" else super().distance(start, moved, spaces)


@pytest.mark.parametrize(
    ("about", "rule"),
    [
        ("word", "reason in a word"),
        ("sizes", "a space and an example"),
        ("order", "order of the views"),
        ("scale", "the scale that was asked for"),
        ("index", "keeps example, index and origin"),
        ("scores", "scores views at their own blocks"),
        ("distance", "at distance 0"),
        ("bounds", "stay as they are|within their bounds"),
    ],
)
def test_the_contract_catches(about: str, rule: str, random_policy: Policy, views: list[View]) -> None:
    liar = Liar.Config(about=about)
    with pytest.raises(AssertionError, match=rule):
        check_surface(liar, random_policy, views)


def test_two_surfaces_are_moved_by_one_attack(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    """Noise of one unit moves ids by 2 where it moves pixels by 2/255; what a view lacks stays as it is."""
    both = apply(random_policy, views, responses, attack="noise", surfaces=["pixels", "ends"])
    assert [outcome.untouched for outcome in both] == [None] * 3
    whole, mute, text_only = (outcome.view for outcome in both)
    for moved, view in ((whole, views[0]), (text_only, views[2])):
        assert torch.equal(moved.prompt_ids_P[:-2], view.prompt_ids_P[:-2])
        assert (moved.prompt_ids_P[-2:] - view.prompt_ids_P[-2:]).abs().tolist() == [2, 2]
    assert torch.equal(mute.prompt_ids_P, views[1].prompt_ids_P)
    assert not torch.equal(mute.canvases[0], views[1].canvases[0])
    distances = [outcome.record.distances for outcome in both if outcome.record]
    assert [sorted(each) for each in distances] == [["ends", "pixels"], ["pixels"], ["ends"]]
    assert both[2].metrics["ends/largest_change"] == 2
    assert both[0].metrics["pixels/largest_change"] == pytest.approx(2, abs=1e-3)


def test_the_policy_scores_all_surfaces_where_the_point_is(random_policy: Policy, views: list[View]) -> None:
    opened = OpenViews([Pixels(), Ends()], random_policy, views, scale=0.5)
    assert opened.space.examples == (0, 1, 0, 2)
    assert opened.surface_of == ("pixels", "pixels", "ends", "ends")
    assert [space.name for space in opened.space.blocks] == ["pixels", "pixels", "embeddings", "embeddings"]
    point = (*(block * 0 for block in opened.start[:2]), *(block + 1 for block in opened.start[2:]))
    scored, wrt = opened.at(point)
    moved = opened.moved(random_policy, point, "elsewhere")
    for number, view in enumerate(views):
        change = [0, 0] if number == 1 else [1, 1]
        for other in (scored[number], moved[number]):
            assert (other.prompt_ids_P[-2:] - view.prompt_ids_P[-2:]).tolist() == change
        assert moved[number].origin == "elsewhere"
    assert wrt.keys() == {"pixels"}
    assert all(map(torch.equal, wrt["pixels"], point[:2]))
    assert [bool(canvas.any()) for view in moved for canvas in view.canvases] == [False, False]


def test_a_view_that_lacks_all_surfaces_is_left_alone(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    def reasons(**slots: Any) -> list[str | None]:
        return [outcome.untouched for outcome in apply(random_policy, views, responses, attack="noise", **slots)]

    assert reasons() == [None, None, "no-image"]
    assert reasons(surfaces=["ends"]) == [None, "no-text", None]


def test_an_attack_moves_what_it_is_made_for() -> None:
    assert [surface.name() for surface in Intervention().surfaces] == ["pixels"]
    with pytest.raises(ConfigError, match="'diffusion-noise' moves in pixels, not ends"):
        Intervention(InterventionConfig.model_validate({"attack": "diffusion-noise", "surfaces": ["ends"]}))
    with pytest.raises(ConfigError, match="moved once"):
        Intervention(InterventionConfig.model_validate({"surfaces": ["pixels", "pixels"]}))


# Records


def test_a_view_says_how_it_was_made(random_policy: Policy, views: list[View], responses: list[list[Response]]) -> None:
    strength = {"type": "constant", "value": 0.5}
    first, second, left_alone = apply(random_policy, views, responses, attack=PGD.Config(), strength=strength)
    for number, outcome in enumerate((first, second)):
        assert outcome.record is not None
        assert outcome.record.seed == derive(3, number)
        assert outcome.record.strength == 0.5
        change = (outcome.view.canvases[0] - views[number].canvases[0]).abs()
        distance = outcome.record.distances["pixels"]
        assert distance.share == pytest.approx(float((change > 0).float().mean()))
        assert distance.largest == pytest.approx(float(change.max()) * 255) == pytest.approx(1, abs=1e-3)
        assert outcome.record.trace is None  # it costs something, and nobody looks
    assert left_alone.record is None


def test_where_somebody_looks_an_attack_is_traced(
    random_policy: Policy, views: list[View], responses: list[list[Response]]
) -> None:
    plain = apply(random_policy, views, responses, attack=PGD.Config(steps=2))
    traced = apply(random_policy, views, responses, attack=PGD.Config(steps=2), traced=True)
    first = apply(random_policy, views, responses, attack=PGD.Config(steps=1))
    for number in range(2):
        assert torch.equal(plain[number].view.canvases[0], traced[number].view.canvases[0])
        record = traced[number].record
        assert record is not None
        assert record.trace is not None
        assert int(record.trace.selected_NT.sum()) == traced[number].metrics["selected"]
        negative, zero, positive = record.trace.gradient_signs["pixels"]
        assert negative + zero + positive == pytest.approx(1)
        # One step goes where the first gradient points, but for values at the ends of the range.
        change = first[number].view.canvases[0] - views[number].canvases[0]
        inside = (views[number].canvases[0] > STEP) & (views[number].canvases[0] < 1 - STEP)
        share = float((change[inside] < 0).float().sum()) / change.numel()
        assert share - 1e-6 <= negative <= share + float((~inside).float().mean()) + 1e-6
    (noisy, *_) = apply(random_policy, views, responses, attack=Noise.Config(), traced=True)
    assert noisy.record is not None
    assert noisy.record.trace is not None
    assert noisy.record.trace.gradient_signs == {}


def test_recorded_steps_keep_how_views_were_made(model: Path, tmp_path: Path) -> None:
    run = train(tiny(model, tmp_path)).run
    groups = [group for group in run.samples()[0] if group.source == "training"]
    assert [(group.step, [view.origin for view in group.views]) for group in groups] == [
        (step, ["clean", "adversarial"]) for step in (2, 2, 3, 3)
    ]
    for group in groups:
        view = group.views[1]
        assert view.seed == derive(0, "sample", group.step - 1, int(group.example.rsplit("-", 1)[1]))
        assert view.strength == 1
        assert view.distances["pixels"].largest == pytest.approx(2, abs=1e-3)
        assert [tokens.response for tokens in view.tokens] == [0, 1]
        assert sum(view.gradient_signs["pixels"]) == pytest.approx(1)
    run.rewind(2)
    assert {group.step for group in run.samples()[0]} == {0, 2}
