"""NoisyRollout: its noise against a loop over pixels, its schedule against its formula, and its sampler."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from groups import draw
from saei.attacks.base import BlockSpace, Space
from saei.attacks.diffusion import DiffusionNoise, mixture
from saei.config.overrides import load_config
from saei.config.strategy import StrategyConfig
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.interventions.strengths import Constant, Cosine, Linear, Ramp, Sigmoid
from saei.interventions.surfaces import redrawing
from saei.policy import Policy
from saei.policy.pixels.space import PixelSpace
from saei.runtime.seeds import GroupSources, derive
from saei.samplers.noisy import Noisy
from saei.types import CLEAN, Example, View


def alpha_bar(t: int) -> float:
    """The product of 1 - β up to index t, one factor at a time."""
    product = 1.0
    for s in range(t + 1):
        x = -6 + 12 * s / 999
        product *= 1 - (1 / (1 + math.exp(-x)) * (0.5e-2 - 1e-5) + 1e-5)
    return product


def picture(width: int = 150, height: int = 110) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    values[: height // 2] = 255  # a clean half shows what the processor makes of the noise
    return Image.fromarray(values)


OF_GROUP = derive(0, 0)
"""Seed of the source of a group with index 0 under ``GroupSources(0)``."""


def with_noise(image: Image.Image, t: int, seed: int = 0) -> Image.Image:
    """The noise as NoisyRollout adds it: [0, 1], mix, clamp, cut off to bytes."""
    noise_CHW = torch.randn((3, image.height, image.width), generator=torch.Generator().manual_seed(seed))
    kept, added = alpha_bar(t) ** 0.5, (1 - alpha_bar(t)) ** 0.5
    noisy = image.copy()
    for y in range(image.height):
        for x in range(image.width):
            old: Any = image.getpixel((x, y))
            new = (kept * old[c] / 255 + added * float(noise_CHW[c, y, x]) for c in range(3))
            noisy.putpixel((x, y), tuple(int(255 * min(max(value, 0.0), 1.0)) for value in new))
    return noisy


def attacked(policy: Policy, view: View, progress: float = 0.0, **slots: Any) -> View:
    step = StepContext(policy, progress, GroupSources(0))
    responses = draw(policy, [view], [1], seed=1)
    (outcome,) = Intervention(InterventionConfig(**slots)).apply([view], responses, step)
    return outcome.view


def move(config: DiffusionNoise.Config, start: torch.Tensor, seed: int = 0, **space: Any) -> torch.Tensor:
    (moved,) = config.build().attack(
        lambda point: pytest.fail("noise asks no criterion"),
        (start,),
        space=Space((BlockSpace(**space),), (0,)),
        progress=0.0,
        generators=[torch.Generator().manual_seed(seed)],
    )
    return moved


@pytest.mark.parametrize("t", [0, 1, 225, 500, 999])
def test_the_process(t: int) -> None:
    assert mixture(t) == pytest.approx((alpha_bar(t) ** 0.5, (1 - alpha_bar(t)) ** 0.5), rel=1e-12)


def test_what_the_docstring_says_about_its_size() -> None:
    assert round(mixture(500)[1], 3) == 0.505
    assert round(mixture(500)[1] * 255) == 129
    assert round(mixture(0)[1], 3) == 0.005


@pytest.mark.parametrize(("strength", "t"), [(1.0, 500), (0.5, 250), (0.0011, 0)])
def test_the_original_is_noised_and_then_resized(random_policy: Policy, strength: float, t: int) -> None:
    image = picture()
    view = random_policy.view(Example("p", "How many?", "1", (image,)))
    (canvas,) = view.canvases
    assert canvas.shape[-2:] != (image.height, image.width)
    moved = attacked(random_policy, view, attack="diffusion-noise", strength={"type": "constant", "value": strength})
    assert moved.origin == "noisy"
    expected = random_policy.pixels.canvas(with_noise(image, t, seed=OF_GROUP))
    # A factor of the noise may fall on the border of two bytes in one arithmetic and not in the other.
    assert float((moved.canvases[0] - expected).abs().max()) <= 1 / 255 + 1e-6
    assert float((moved.canvases[0] != expected).float().mean()) < 1e-3
    assert not torch.equal(moved.canvases[0], canvas)


def test_resizing_averages_noise_away(random_policy: Policy) -> None:
    view = random_policy.view(Example("p", "How many?", "1", (Image.new("RGB", (512, 512), (128, 128, 128)),)))
    spreads = [
        float(
            attacked(random_policy, view, attack={"type": "diffusion-noise", "resolution": resolution})
            .canvases[0]
            .std()
        )
        for resolution in ("original", "seen")
    ]
    assert spreads[0] < 0.5 * spreads[1]


def test_several_pictures_are_noised_on_their_own(random_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    images = (picture(), picture(90, 140))
    asked, find = [], random_policy.pixels.map
    monkeypatch.setattr(random_policy.pixels, "map", lambda *sizes: (asked.append(len(sizes)), find(*sizes))[1])
    view = random_policy.view(Example("p", "How many?", "1", images))
    moved = attacked(random_policy, view, attack="diffusion-noise")
    assert [canvas.shape for canvas in moved.canvases] == [canvas.shape for canvas in view.canvases]
    assert set(asked) == {2}  # what the processor does to one picture alone is nobody's question
    first = random_policy.pixels.canvas(with_noise(images[0], 500, seed=OF_GROUP))
    torch.testing.assert_close(moved.canvases[0], first, atol=1.01 / 255, rtol=0)


def test_a_picture_is_redrawn_beside_the_others_of_its_prompt(random_policy: Policy) -> None:
    def sharing(images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        side = 64 // len(images)
        small = [image.resize((side, side)) for image in images]
        return dict(random_policy.parts.image_processor(images=small, return_tensors="pt"))

    pixels, images = PixelSpace(sharing), (picture(), picture(90, 140))
    canvases = pixels.canvases(images)
    assert canvases[0].shape != pixels.canvas(images[0]).shape
    for place, canvas in enumerate(canvases):
        assert torch.equal(redrawing(pixels, images, place)(lambda picture: picture), canvas)


def test_what_is_seen_is_noised_where_there_is_no_original() -> None:
    image = picture(12, 9)
    start = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    expected = torch.from_numpy(np.array(with_noise(image, 500))).permute(2, 0, 1).float() / 255
    for config in (DiffusionNoise.Config(), DiffusionNoise.Config(resolution="seen")):
        torch.testing.assert_close(move(config, start, grid=1 / 255), expected, atol=1e-6, rtol=0)
    flipped = move(DiffusionNoise.Config(), start, redraw=lambda change: change(start.flip(2)).flip(2))
    assert not torch.equal(flipped, move(DiffusionNoise.Config(), start))
    seen = move(DiffusionNoise.Config(resolution="seen"), start, redraw=lambda change: pytest.fail("not asked for"))
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)


def test_strength_shortens_the_way_into_the_process() -> None:
    start = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    half = move(DiffusionNoise.Config(t0=501), start, scale=0.5)
    assert torch.equal(half, move(DiffusionNoise.Config(t0=250), start))
    assert torch.equal(move(DiffusionNoise.Config(), start, scale=5.0), move(DiffusionNoise.Config(t0=999), start))
    assert torch.equal(move(DiffusionNoise.Config(), start, scale=0.0), start)
    assert not torch.equal(move(DiffusionNoise.Config(), start, seed=1), move(DiffusionNoise.Config(), start))
    with pytest.raises(ValueError, match="less than 1000"):
        DiffusionNoise.Config(t0=1000)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_picture_that_is_not_changed_is_the_canvas(random_policy: Policy, mode: str) -> None:
    image = picture().convert(mode)
    (canvas,) = random_policy.view(Example("p", "How many?", "1", (image,))).canvases
    shapes = []
    redraw = redrawing(random_policy.pixels, [image], 0)
    assert torch.equal(redraw(lambda pixels: (shapes.append(pixels.shape), pixels)[1]), canvas)
    assert shapes == [(3, 110, 150)]


def test_sigmoid_is_noisy_rollouts_decay() -> None:
    for coef, mid, total in ((30, 40, 60), (60, 40, 120)):
        strength = Sigmoid(Sigmoid.Config(coef=coef, mid=Fraction(mid, total)))
        for step in range(total + 1):
            x = coef * (step / total - mid / total)
            assert strength.at(step / total) == pytest.approx(1 - 1 / (1 + math.exp(-x)), abs=1e-12)
    assert Sigmoid().config == Sigmoid.Config(coef=30, mid="2/3")
    assert Sigmoid(Sigmoid.Config(coef=1e6)).at(0.0) == 1.0


def test_linear_and_cosine() -> None:
    line, curve = Linear(Linear.Config(start=0.5, end=2)), Cosine(Cosine.Config(start=1, end=0.25))
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.25)
    for step in range(11):
        assert line.at(step / 10) == pytest.approx(np.interp(step, [0, 10], [0.5, 2]))
        assert curve.at(step / 10) == pytest.approx(schedule.get_last_lr()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a schedule without optimiser steps
            schedule.step()
    assert (Linear().at(0.0), Linear().at(1.0), Cosine().at(0.0), Cosine().at(1.0)) == (1, 0, 1, 0)


def test_a_constant_is_the_same_at_the_end() -> None:
    assert [Constant(Constant.Config(value=0.5)).at(progress) for progress in (0.0, 0.5, 1.0)] == [0.5] * 3
    assert [Constant().at(progress) for progress in (0.0, 1.0)] == [1.0, 1.0]


@pytest.mark.parametrize("ramp", [Linear, Cosine])
def test_a_ramp_goes_somewhere(ramp: type[Ramp]) -> None:
    with pytest.raises(ValidationError, match=r"start and end are 0\.5\. Use {type: constant, value: 0\.5}"):
        ramp.Config(start=0.5, end=0.5)


def test_noisy_groups(random_policy: Policy) -> None:
    view = random_policy.view(Example("p", "How many?", "1", (picture(),)))
    sampler = Noisy(Noisy.Config(n_clean=2, n_adversarial=3))
    (group,) = sampler.draw([view], StepContext(random_policy, 0.0, GroupSources(0)), None)
    assert [own.origin for own in group.views] == [CLEAN, "noisy"]
    assert group.sampled_from == (0, 0, 1, 1, 1)
    assert group.updated_on == (0, 0, 0, 0, 0)
    spread = float((group.views[1].canvases[0] - view.canvases[0]).std())
    (late,) = sampler.draw([view], StepContext(random_policy, 1.0, GroupSources(0)), None)
    assert float((late.views[1].canvases[0] - view.canvases[0]).std()) < 0.1 * spread  # t = 0 is left


def test_noisy_has_noisy_rollouts_defaults_and_keeps_them() -> None:
    config = load_config(assignments=["sampler=noisy", "attack.t0=450", "strength.coef=60"]).sampler
    assert isinstance(config, Noisy.Config)
    assert config.intervention.attack == DiffusionNoise.Config(t0=450)
    assert config.intervention.strength == Sigmoid.Config(coef=60)
    assert (config.n_clean, config.n_adversarial, config.update_on, config.beta) == (6, 6, "clean", 0.0)
    other = Noisy.Config.model_validate({"intervention": {"attack": {"resolution": "seen"}}})
    assert other.intervention.attack == DiffusionNoise.Config(resolution="seen")
    assert isinstance(other.intervention.strength, StrategyConfig)
    assert other.intervention.strength.type == "sigmoid"
    assert Noisy.Config.model_validate(other.model_dump(mode="json")) == other
