"""Limits on the area of pictures: kept for every family, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import tiny_folder
from saei.config.sections import ModelConfig
from saei.data.templates import Plain
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.errors import ModelError
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.policy.pixels.space import to_image
from saei.types import Example

THERE = [name for name, family in FAMILIES.items() if not family.missing]
FIXED = {"LLaVA": 1024, "Gemma3": 1024, "PaliGemma": 1024, "Idefics3": 4096, "Gemma4": 16128}
"""Areas that these tiny processors make of any picture."""

SIZES = [(40, 30), (64, 64), (150, 100), (60, 200)]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def parts() -> dict[str, Parts]:
    return {name: tiny_parts(FAMILIES[name]) for name in THERE}


def limited(parts: Parts, **limits: int) -> Policy:
    return Policy.around(parts, ModelConfig(shared_prefix=False, **limits), Plain())


def area(policy: Policy, size: tuple[int, int]) -> int:
    canvas = policy.pixels.canvas(noise(*size))
    return canvas.shape[-1] * canvas.shape[-2]


@pytest.mark.parametrize("family", [name for name in THERE if not name.startswith("Qwen") and name not in FIXED])
def test_a_processor_without_limits_gets_smaller_pictures(parts: dict[str, Parts], family: str) -> None:
    free, policy = (limited(parts[family], **limits) for limits in ({}, {"max_pixels": 1300}))
    for size in SIZES:
        assert area(policy, size) <= 1300 < max(1301, area(free, size))
    assert area(free, (150, 100)) > 1300
    # What the policy saw is what the processor makes of the picture that is kept.
    example = Example("1", "How many?", "1", (noise(150, 100),))
    view = policy.view(example)
    own = policy.pixels.inputs([view.canvases])["pixel_values"]
    official = policy._prompts.images([to_image(view.canvases[0])])["pixel_values"]
    torch.testing.assert_close(own, official, atol=2e-6, rtol=0)


def test_several_pictures_are_each_limited(parts: dict[str, Parts]) -> None:
    policy = limited(parts["GLM-4V"], max_pixels=1300)
    canvases = policy.pixels.canvases([noise(150, 100), noise(24, 24), noise(60, 200)])
    assert [canvas.shape[-1] * canvas.shape[-2] <= 1300 for canvas in canvases] == [True] * 3


def test_small_pictures_are_enlarged_where_a_least_area_is_set(parts: dict[str, Parts]) -> None:
    for family in ("GLM-4V", "LLaVA-Next"):
        free, policy = limited(parts[family]), limited(parts[family], min_pixels=1000)
        assert area(free, (24, 20)) < 1000 <= area(policy, (24, 20))


@pytest.mark.parametrize("family", [name for name in FIXED if name in THERE])
@pytest.mark.parametrize("limit", ["max_pixels", "min_pixels"])
def test_a_limit_that_a_processor_cannot_keep_is_refused(parts: dict[str, Parts], family: str, limit: str) -> None:
    value = FIXED[family] // 2 if limit == "max_pixels" else 2 * FIXED[family]
    with pytest.raises(ModelError) as raised:
        limited(parts[family], **{limit: value})
    assert f"model.{limit}" in raised.value.reason
    assert f"model.{limit}" in raised.value.remedy


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_pixels": 200}, "model.max_pixels is 200, the smallest area is the checkpoint's 256"),
        ({"min_pixels": 5000}, "model.min_pixels is 5000, the largest area is the checkpoint's 4096"),
        ({"min_pixels": 100, "max_pixels": 200}, "model.max_pixels is 200, .* 16 x 16"),
    ],
)
def test_limits_that_contradict_the_checkpoint_are_refused(limits: dict[str, int], said: str, tmp_path: Path) -> None:
    folder = tiny_folder("Qwen2.5-VL", tmp_path / "model")
    with pytest.raises(ModelError, match=said):
        Policy.load(ModelConfig(path=str(folder), **limits), Plain())
    both = {"min_pixels": 256, "max_pixels": 600}
    policy = Policy.load(ModelConfig(path=str(folder), **both), Plain())
    assert [area(policy, size) <= 600 for size in SIZES] == [True] * len(SIZES)


def test_limits_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="min_pixels"):
        ModelConfig(min_pixels=5000, max_pixels=4000)


def test_a_limit_reaches_a_processor_that_has_one(tmp_path: Path) -> None:
    folder = tiny_folder("Qwen2.5-VL", tmp_path / "model")
    policy = Policy.load(ModelConfig(path=str(folder), max_pixels=1024), Plain())
    assert area(policy, (150, 100)) <= 1024
    saved = json.loads((folder / "preprocessor_config.json").read_text())
    assert saved["size"]["longest_edge"] == 4096  # the checkpoint's own
