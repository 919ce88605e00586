"""The way from an original picture to the canvas, for attacks that act before the processor resizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.policy.pixels import PixelSpace, to_image, to_rgb


def redrawing(pixels: PixelSpace, image: Image.Image) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
    """Return what applies a change to a picture and returns the canvas of the result; see ``BlockSpace.redraw``."""

    def redraw(change: Callable[[Tensor], Tensor]) -> Tensor:
        picture_HWC = torch.from_numpy(np.array(to_rgb(image)))
        return pixels.canvas(to_image(change(picture_HWC.permute(2, 0, 1).float() / 255)))

    return redraw
