"""Pictures of samples: what an attack changed, made visible, and several pictures as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

TIMES = 32
"""Factor on a difference: a change of 2/255 is invisible, and 64/255 is not."""


def difference(before: Image.Image, after: Image.Image, times: int = TIMES) -> Image.Image:
    """Return what changed between two pictures of one size, enlarged, around a middle grey.

    Args:
        before: The clean picture.
        after: The perturbed one.
        times: Factor on the change of each value; what then leaves the range is cut.
    """
    change = np.asarray(after.convert("RGB"), np.int32) - np.asarray(before.convert("RGB"), np.int32)
    return Image.fromarray((128 + times * change).clip(0, 255).astype(np.uint8))


BRIGHTER, NEITHER, DARKER = (214, 108, 16), (244, 244, 240), (32, 88, 166)


def directions(signs: Image.Image) -> Image.Image:
    """Return where a gradient pointed, in two colours that no enlarged difference has.

    A pixel is orange where more light raises the criterion in its three colours, blue where less does, and paler where
    the colours disagree.

    Args:
        signs: Of a gradient: 0 for negative, 128 for zero, 255 for positive.
    """
    levels_HW3 = np.asarray(signs.convert("RGB"))
    sum_HW = (levels_HW3 > 128).sum(-1, dtype=np.int8) - (levels_HW3 < 128).sum(-1, dtype=np.int8)
    shares = np.arange(-3, 4)[:, None] / 3
    palette = np.array(NEITHER) + abs(shares) * (np.where(shares > 0, BRIGHTER, DARKER) - np.array(NEITHER))
    picture = Image.fromarray((sum_HW + 3).astype(np.uint8), "P")  # a third of the bytes of three colours a pixel
    picture.putpalette(palette.round().astype(np.uint8).tobytes())
    return picture


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures as one, from left to right, on white; a single one as it is.

    Args:
        pictures: At least one, in RGB.
    """
    if len(pictures) == 1:
        return pictures[0]
    row = Image.new("RGB", (sum(each.width for each in pictures), max(each.height for each in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
