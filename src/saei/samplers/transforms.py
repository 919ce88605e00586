"""Transforms of a picture that can be told in a sentence: rotations, flips and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from PIL import Image

from saei.data.open_image import to_rgb

Picture: TypeAlias = Image.Image


@dataclass(frozen=True, slots=True)
class Transform:
    """A change of a picture.

    Attributes:
        announcement: What the prompt says about it, a sentence.
        apply: ``apply(picture, generator)`` returns the changed RGB picture; the generator is on the CPU.
    """

    announcement: str
    apply: Callable[[Picture, torch.Generator], Picture]


def _moved(method: Image.Transpose, done: str) -> Transform:
    sentence = f"The image was {done}. Turn it back in your mind, and answer for the image as it was."
    return Transform(sentence, lambda picture, generator: to_rgb(picture).transpose(method))


def _noisy(deviation: float) -> Transform:
    """Return Gaussian noise of a standard deviation in grey levels, cut off to 8 bits as in R1-ShareVL's code."""

    def apply(picture: Picture, generator: torch.Generator) -> Picture:
        rgb = to_rgb(picture)
        levels_HWC = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).float()
        noisy_HWC = levels_HWC + deviation * torch.randn(levels_HWC.shape, generator=generator)
        return Image.frombytes("RGB", rgb.size, noisy_HWC.clamp(0, 255).to(torch.uint8).numpy().tobytes())

    return Transform("Noise was added to the image. Answer as well as you can see.", apply)


TRANSFORMS: Mapping[str, Transform] = {
    "rotate-90": _moved(Image.Transpose.ROTATE_270, "rotated by 90 degrees clockwise"),  # Pillow turns the other way
    "rotate-180": _moved(Image.Transpose.ROTATE_180, "rotated by 180 degrees"),
    "rotate-270": _moved(Image.Transpose.ROTATE_90, "rotated by 90 degrees counterclockwise"),
    "flip-horizontal": _moved(Image.Transpose.FLIP_LEFT_RIGHT, "mirrored from left to right"),
    "flip-vertical": _moved(Image.Transpose.FLIP_TOP_BOTTOM, "mirrored from top to bottom"),
    "flip-both": _moved(Image.Transpose.ROTATE_180, "mirrored from left to right and from top to bottom"),
    "noise-10": _noisy(10),
    "noise-25": _noisy(25),
    "noise-50": _noisy(50),
}
"""R1-ShareVL's nine: three rotations, three flips of which the last is a rotation, too, and three levels of noise."""
