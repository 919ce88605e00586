"""What the generated images have in common: 64 x 64 RGB, low contrast around mid-grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
CONTRAST = 0.25
"""Share of the 8-bit range that images use; it decides how much one grey level of perturbation means."""


COLOURS = {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 60, 220), "yellow": (230, 200, 30)}
SHADE = 30.0
"""Grey levels, at full contrast, by which the light at the edges departs from its mean."""

PAPER = 255.0 - SHADE
"""The grey level of empty paper under mean light, at full contrast."""


def blank() -> NDArray[np.float64]:
    """Return an empty sheet, ``[64, 64, 3]`` in grey levels."""
    return np.full((SIDE, SIDE, 3), PAPER)


def to_image(canvas: NDArray[np.float64], contrast: float = CONTRAST) -> Image.Image:
    """Return an RGB image of a canvas under light that is redder to the right and bluer to the bottom.

    The light tells of every patch where it lies, which a small model with relative positions is slow to find
    out. The contrast is reduced around mid-grey.

    Args:
        canvas: Square, ``[64, 64, 3]`` as a rule, in units of 8-bit grey levels at full contrast.
        contrast: Share of the 8-bit range that the image uses.
    """
    ramp = np.linspace(-SHADE, SHADE, len(canvas))
    lit = canvas + np.stack(np.broadcast_arrays(ramp[None, :], 0.0, ramp[:, None]), axis=-1)
    pixels = 127.5 + contrast * (np.clip(lit, 0, 255) - 127.5)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
