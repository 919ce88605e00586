"""What a processor does to pixels: resizes against Pillow's own floats, maps against a loop, ways to the canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from saei.errors import DataError, ModelError
from saei.policy.pixels import resizing
from saei.policy.pixels import space as pixels
from saei.policy.pixels.resizing import Resize, planes, resizes
from saei.policy.pixels.space import PixelSpace, to_image
from saei.policy.pixels.tracing import trace

RESAMPLING = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.NEAREST]
MEAN, STD = 0.4, 0.2


def noise(*size: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def normalised(*pictures: Image.Image, dtype: torch.dtype = torch.float32) -> Tensor:
    stacked = np.stack([planes(picture) for picture in pictures])
    return ((torch.from_numpy(stacked).float() / 255 - MEAN) / STD).to(dtype)


def tiled(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """Two halves of a resized picture, one of them mirrored, on padding; and a small copy of the whole picture."""
    (image,) = images
    wide = image.resize((16, 8), Image.Resampling.BICUBIC)
    left, right = wide.crop((0, 0, 8, 8)), wide.crop((8, 0, 16, 8)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    padded = Image.new("RGB", (8, 8), (10, 20, 30))
    padded.paste(image.resize((6, 8), Image.Resampling.BILINEAR), (1, 0))
    return {"pixel_values": normalised(left, right, padded), "grid": torch.tensor([[1, 2]])}


@pytest.mark.parametrize("resample", RESAMPLING)
@pytest.mark.parametrize("size", [(20, 11), (9, 33), (30, 7)])
def test_a_resize_is_the_matrices_that_pillow_applies_to_floats(size: tuple[int, int], resample: int) -> None:
    found: list[Resize] = []

    def seen(source_LHW: np.ndarray, resize: Resize) -> np.ndarray:
        found.append(resize)
        return resize.apply(source_LHW)

    picture = Image.fromarray(np.random.default_rng(0).integers(90, 160, (13, 17, 3), dtype=np.uint8))
    with resizes(seen):
        resized = picture.resize(size, resample)
    assert np.array_equal(np.asarray(resized), np.asarray(picture.resize(size, resample)))
    (resize,) = found
    floats = [Image.fromarray(plane.astype(np.float32)).resize(size, resample) for plane in planes(picture)]
    ours = resize.linear(torch.from_numpy(planes(picture)).float() / 255) * 255
    np.testing.assert_allclose(ours.numpy(), np.stack([np.asarray(one) for one in floats]), atol=2e-3)


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (6, 6)])
def test_a_resize_saturates_where_pillow_does(size: tuple[int, int]) -> None:
    found: list[Resize] = []
    with resizes(lambda source_LHW, resize: found.append(resize) or resize.apply(source_LHW)):  # type: ignore[func-returns-value]
        resized = noise(70, 33).resize(size, Image.Resampling.BICUBIC)
    ours = found[0].linear(torch.from_numpy(planes(noise(70, 33))).float() / 255) * 255
    assert float((ours - torch.from_numpy(planes(resized)).float()).abs().max()) < 1.5


def test_what_is_replaced_is_put_back() -> None:
    def failing(source_LHW: np.ndarray, resize: Resize) -> np.ndarray:
        raise ZeroDivisionError

    before = Image.Image.resize
    with pytest.raises(ZeroDivisionError), resizes(failing):
        noise(4, 4).resize((2, 2))
    assert Image.Image.resize is before


def test_a_map_is_the_processor_and_its_gradient_a_difference() -> None:
    space = PixelSpace(tiled)
    canvas = space.canvas(noise(10, 12))
    assert canvas.shape == (3, 10, 12)  # the copy is made of the original, which therefore is the canvas
    found = space.map((10, 12))
    assert [(stage.resize.source, stage.resize.target) for stage in found.stages] == [
        ((10, 12), (8, 16)),
        ((10, 12), (8, 6)),
    ]
    assert found.extras["grid"].tolist() == [[1, 2]]
    torch.testing.assert_close(found.std_C11.flatten(), torch.full((3,), STD), atol=1e-5, rtol=0)
    inputs = space.inputs([[canvas]])
    torch.testing.assert_close(inputs["pixel_values"], tiled([to_image(canvas)])["pixel_values"], atol=1e-6, rtol=0)
    padding = (torch.tensor([10, 20, 30]) / 255 - MEAN) / STD
    torch.testing.assert_close(inputs["pixel_values"][2, :, 3, 0], padding, atol=1e-6, rtol=0)
    calm = (canvas * 0.4 + 0.3).mul(255).round().div(255).requires_grad_()  # far from saturation
    weight = torch.randn(inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((space.inputs([[calm]])["pixel_values"] * weight).sum(), calm)
    wide, small = (stage.resize for stage in found.stages)
    halves = torch.cat([weight[0], weight[1].flip(-1)], dim=-1)
    by_hand = sum(
        resize.matrices[0].T @ own @ resize.matrices[1]
        for resize, own in ((wide, halves), (small, weight[2][..., 1:7]))
    )
    torch.testing.assert_close(gradient, by_hand / STD, atol=1e-4, rtol=0)


def test_two_pictures_of_one_prompt_are_traced_apart() -> None:
    def stacked(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {"pixel_values": normalised(*(image.resize((8, 8)) for image in images))}

    space = PixelSpace(stacked)
    canvases = space.canvases([noise(8, 8), noise(5, 9, seed=1)])
    assert [canvas.shape for canvas in canvases] == [(3, 8, 8), (3, 8, 8)]  # both are what the processor shows
    official = stacked([to_image(canvas) for canvas in canvases])["pixel_values"]
    torch.testing.assert_close(space.inputs([canvases])["pixel_values"], official, atol=1e-6, rtol=0)


def test_a_canvas_is_cropped_to_what_is_seen() -> None:
    def cropping(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {
            "pixel_values": normalised(*(image.crop((2, 1, 6, 6)) if image.width > 4 else image for image in images))
        }

    canvas = PixelSpace(cropping).canvas(noise(9, 9))
    assert np.array_equal(np.asarray(to_image(canvas)), np.asarray(noise(9, 9).crop((2, 1, 6, 6))))


def test_a_picture_of_one_colour_does_not_decide_for_others_of_its_size() -> None:
    space = PixelSpace(tiled)
    assert space.canvas(Image.new("RGB", (12, 10), "red")).shape == (3, 10, 12)
    assert space.canvas(noise(10, 12)).shape == (3, 10, 12)


def test_large_originals_are_scaled_down_and_others_kept() -> None:
    space = PixelSpace(tiled, max_pixels=400)
    assert space.canvas(noise(10, 12)).shape == (3, 10, 12)
    assert space.canvas(noise(40, 30)).shape == (3, 23, 17)


def test_half_precision_is_a_rounding() -> None:
    def half(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {"pixel_values": normalised(*images, dtype=torch.bfloat16)}

    space = PixelSpace(half)
    canvas = space.canvas(noise(8, 8)).requires_grad_()
    assert space.map((8, 8)).rounds
    values = space.inputs([[canvas]])["pixel_values"]
    torch.testing.assert_close(values, half([noise(8, 8)])["pixel_values"].float(), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(values.sum(), canvas)
    torch.testing.assert_close(gradient, torch.full_like(canvas, 1 / STD), atol=1e-4, rtol=0)


def sharpened(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    return {"pixel_values": normalised(*images) ** 2}


def brightened(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    dark = [image.point(lambda value: value // 2) for image in images]
    return {"pixel_values": normalised(*(image.resize((4, 4)) for image in dark))}


def unnamed(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    return {"pictures": normalised(*images)}


def telling(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    values = normalised(*images)
    return {"pixel_values": values, "brightness": values.mean((1, 2, 3))}


def blind(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    return {"pixel_values": torch.zeros(1, 3, 4, 4)}


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (sharpened, "not an affine function|not made of single pixels|several ways"),
        (brightened, "changes pictures before it resizes"),
        (unnamed, "has no `pixel_values`"),
        (telling, "`brightness` depends on the picture"),
        (blind, "does not reach its output"),
    ],
)
def test_other_processors_are_refused_with_the_reason(process: Callable[..., dict[str, Tensor]], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        trace(process, [(8, 8)])


def test_a_picture_that_would_be_blown_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="blow it up to 16 x 8 pixels"):
        PixelSpace(tiled).canvas(noise(10, 12))


def test_maps_that_are_not_used_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {"pixel_values": normalised(*images)}

    space = PixelSpace(plain)
    monkeypatch.setattr(pixels, "_MAPS_BYTES", 2 * space.map((8, 8)).size_bytes)
    first = space.map((8, 8))
    space.map((8, 7))
    assert space.map((8, 8)) is first
    space.map((7, 7))
    assert space.map((8, 8)) is first  # used later than the one that had to go
    assert set(space._maps) == {((8, 8),), ((7, 7),)}
