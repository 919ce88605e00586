"""Pictures for people to look at, for pages and for terminals."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image


def data_uri(image: Image.Image, *, lossy: bool = False) -> str:
    """Return a picture as the address of itself, for a page that loads nothing.

    Args:
        image: The picture.
        lossy: Write a JPEG, which is smaller, and not every value of it exact.
    """
    buffer = BytesIO()
    if lossy:
        image.save(buffer, "JPEG", quality=85)
    else:
        image.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if lossy else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


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
