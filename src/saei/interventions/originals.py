"""The way from an original picture to the canvas, for attacks that act before the processor resizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.data.open_image import to_rgb
from saei.policy.pixels.space import PixelSpace, to_image


def redrawing(
    pixels: PixelSpace, images: Sequence[Image.Image], place: int
) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
    """Return what applies a change to one picture of a prompt and returns its canvas; see ``BlockSpace.redraw``.

    Args:
        pixels: The pixel space.
        images: All pictures of the prompt: a processor may treat several otherwise than one.
        place: Index of the picture.
    """

    def redraw(change: Callable[[Tensor], Tensor]) -> Tensor:
        picture_HWC = torch.from_numpy(np.array(to_rgb(images[place])))
        changed = to_image(change(picture_HWC.permute(2, 0, 1).float() / 255))
        return pixels.canvases([*images[:place], changed, *images[place + 1 :]])[place]

    return redraw
