"""Pictures for people to look at, for pages and for terminals."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image

SMALL = 192
"""Pixels of the longer side up to which a picture is enlarged, by whole factors."""


def enlarged(image: Image.Image, side: int = SMALL) -> Image.Image:
    """Return a small picture enlarged by a whole factor, each pixel a square; another as it is."""
    factor = side // max(image.size)
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST) if factor > 1 else image


def data_uri(image: Image.Image) -> str:
    """Return a picture as the address of itself, for a page that loads nothing."""
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def half_blocks(image: Image.Image, columns: int) -> list[list[tuple[str, str]]]:
    """Return a picture as lines of half-block characters, each character two pixels above one another.

    Args:
        image: The picture.
        columns: Characters in a line.

    Returns:
        For each line and character the colours of the upper and the lower pixel, such as ``("#ffffff", "#000000")``.
    """
    rows = max(1, round(columns * image.height / image.width / 2))
    small = np.asarray(image.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX))
    colours = [[f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in line] for line in small.tolist()]
    return [list(zip(colours[2 * row], colours[2 * row + 1], strict=True)) for row in range(rows)]
