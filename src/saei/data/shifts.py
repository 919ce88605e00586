"""Shifted variants of the generated tasks: other pictures to the same questions and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from saei.data.images import COLOURS, SIDE

Colour: TypeAlias = tuple[int, int, int]

SHADES: Mapping[str, Colour] = {
    "red": (150, 10, 60),
    "green": (140, 210, 80),
    "blue": (80, 150, 250),
    "yellow": (200, 140, 0),
}
"""Other shades of the colours, under the same names."""

NOISY = 40.0
"""Grey levels of the noise of a noisy picture, before the contrast is reduced."""


def colours_of(shift: str) -> Mapping[str, Colour]:
    """Return the colours that a shift paints with."""
    return SHADES if shift == "colours" else COLOURS


def noise(rng: np.random.Generator, size: float, side: int = SIDE) -> NDArray[np.float64]:
    """Draw the noise of a picture, ``[side, side, 3]`` of a standard deviation in grey levels."""
    return rng.normal(0, size, (side, side, 3))


def uniform_of_either_sign(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between ``low`` and ``high``, and its sign."""
    return float(rng.uniform(low, high) * rng.choice((-1, 1)))
