"""Surfaces: what of a view an attack moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.attacks.base import BlockSpace
from saei.config.strategy import StrategyConfig
from saei.data.open_image import to_rgb
from saei.interventions.base import Opening, Surface
from saei.policy import Policy
from saei.policy.pixels.space import GRID, PixelSpace, to_image
from saei.types import Distance, Example, View


class Pixels(Surface):
    """The canvases of the pictures, on the grid of 8-bit values."""

    space: ClassVar[str] = "pixels"
    reasons: ClassVar[tuple[str, ...]] = ("no-image",)

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["pixels"] = "pixels"

    config: Config

    def lacks(self, view: View) -> str | None:
        """Return ``no-image`` for a view without a picture."""
        return None if view.canvases else "no-image"

    def example_lacks(self, example: Example) -> str | None:
        """Return ``no-image`` for an example without a picture."""
        return None if example.images else "no-image"

    def open(self, policy: Policy, views: Sequence[View], *, scale: float) -> Opening:
        """Return one block per canvas; its units are the pixel range and the model's normalised pixels."""
        blocks, spaces, examples = [], [], []
        for number, view in enumerate(views):
            if not view.canvases:
                continue
            sizes = [(canvas.shape[-2], canvas.shape[-1]) for canvas in view.canvases]
            std_C11 = policy.pixels.map(*sizes).std_C11.to(policy.device)
            units: dict[str, float | Tensor] = {"pixel": 1.0, "normalised": std_C11}
            for place, canvas in enumerate(view.canvases):
                redraw = redrawing(policy.pixels, view.example.images, place)
                blocks.append(canvas)
                spaces.append(BlockSpace(self.space, units=units, scale=scale, grid=GRID, redraw=redraw))
                examples.append(number)
        return Opening(tuple(blocks), tuple(spaces), tuple(examples))

    def at(self, views: Sequence[View], blocks: Sequence[Tensor]) -> tuple[list[View], dict[str, Sequence[Tensor]]]:
        """Return the views as they are, and the canvases."""
        return list(views), {"pixels": blocks}

    def moved(self, policy: Policy, views: Sequence[View], blocks: Sequence[Tensor]) -> list[View]:
        """Return the views with other canvases."""
        canvases = iter(blocks)
        return [replace(view, canvases=tuple(next(canvases) for _ in view.canvases)) for view in views]

    def distance(self, start: Sequence[Tensor], moved: Sequence[Tensor], spaces: Sequence[BlockSpace]) -> Distance:
        """Return the share of pixel values that moved, and their largest change in units of 1/255.

        A step that the grid rounds away moves nothing, so these numbers show an attack that is too weak.
        """
        changes = torch.cat([(b - a).abs().flatten() for a, b in zip(start, moved, strict=True)])
        return Distance(float((changes > 0).float().mean()), float(changes.max()) / GRID)


def redrawing(
    pixels: PixelSpace, images: Sequence[Image.Image], place: int
) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
    """Return a function that applies a change to an original picture and returns the canvas of the result.

    It is ``BlockSpace.redraw``, for attacks that act before the processor resizes.

    Args:
        pixels: The pixel space.
        images: All pictures of the prompt, since a processor may treat several pictures differently from one.
        place: Index of the picture.
    """

    def redraw(change: Callable[[Tensor], Tensor]) -> Tensor:
        picture_HWC = torch.from_numpy(np.array(to_rgb(images[place])))
        changed = to_image(change(picture_HWC.permute(2, 0, 1).float() / 255))
        return pixels.canvases([*images[:place], changed, *images[place + 1 :]])[place]

    return redraw
