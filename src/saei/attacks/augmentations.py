"""Augmentations: changes of a picture that every training with pictures knows, as attacks that never look."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space
from saei.attacks.patches import patch_of_pixel
from saei.config.strategy import Frac, StrategyConfig


class Augmentation(Attack):
    """Changes each picture at random, at the resolution that the model sees; the criterion is never asked.

    The strength scales how far it goes, and 0 leaves the picture as it is. The result is rounded to the grid. To add
    one, implement ``change``.
    """

    spaces = frozenset({"pixels"})
    origin = "augmented"
    ball = "none"

    @abstractmethod
    def change(self, picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Return a changed picture.

        Args:
            picture: ``[C, H, W]`` in the [0, 1] range.
            strength: Above 0.
            generator: Source of randomness, on the CPU.
        """

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the changed point."""
        return tuple(
            self._changed(block.detach(), block_space, generators[example])
            for block, block_space, example in zip(start, space.blocks, space.examples, strict=True)
        )

    def _changed(self, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
        if space.scale == 0:
            return start.clone()
        changed = project(self.change(start, space.scale, generator), start, None, space)
        return snap(changed, start, None, space)


class Brightness(Augmentation):
    """Multiplies a picture by a factor drawn around 1: one of the changes of arXiv 1312.5402."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            range: Largest distance of the factor from 1, ours.
        """

        type: Literal["brightness"] = "brightness"
        range: Frac = Field(default=Fraction(2, 5), ge=0, le=1)

    config: Config

    def change(self, picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Return the picture times the factor, which is never negative."""
        factor = 1 + float(self.config.range) * strength * (2 * _uniform(generator) - 1)
        return picture * max(0.0, factor)


class Rotation(Augmentation):
    """Turns a picture about its centre by an angle drawn around 0; bilinear, with its border drawn out.

    Source: common practice, such as arXiv 1805.09501.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            degrees: Largest angle, either way, ours.
        """

        type: Literal["rotation"] = "rotation"
        degrees: float = Field(default=15.0, ge=0.0, le=180.0)

    config: Config

    def change(self, picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Return the picture turned by an angle."""
        return rotated(picture, self.config.degrees * strength * (2 * _uniform(generator) - 1))


class Crop(Augmentation):
    """Cuts a part of the picture's own shape out at random and enlarges it to the whole, bilinear.

    The share of the area is drawn uniformly, as in arXiv 1409.4842, whose least is 8 % and whose parts have other
    shapes, too.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            least: Smallest share of the area that stays, ours.
        """

        type: Literal["crop"] = "crop"
        least: Frac = Field(default=Fraction(1, 2), gt=0, le=1)

    config: Config

    def change(self, picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Return a part of the picture at the picture's size."""
        height, width = picture.shape[-2:]
        lost = (1 - float(self.config.least)) * strength * _uniform(generator)
        side = math.sqrt(max(0.0, 1 - lost))
        rows, columns = max(1, round(height * side)), max(1, round(width * side))
        top = int(_uniform(generator) * (height - rows + 1))
        left = int(_uniform(generator) * (width - columns + 1))
        part = picture[None, :, top : top + rows, left : left + columns]
        return interpolate(part, size=(height, width), mode="bilinear", align_corners=False)[0]


class PatchMask(Augmentation):
    """Covers square patches, each with the same probability: the masked picture of PAPO (arXiv 2507.06448)."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            probability: That a patch is covered, PAPO's 3/5.
            size: Side of a patch in pixels that the model sees, PAPO's 14.
            level: Brightness of the cover in [0, 1], PAPO's 0: black.
        """

        type: Literal["patch-mask"] = "patch-mask"
        probability: Frac = Field(default=Fraction(3, 5), ge=0, le=1)
        size: int = Field(default=14, ge=1, le=4096)
        level: Frac = Field(default=Fraction(0), ge=0, le=1)

    config: Config

    def change(self, picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """Return the picture with some patches covered; the strength scales the probability."""
        patch_HW = patch_of_pixel(picture.shape[-2], picture.shape[-1], self.config.size)
        drawn = torch.rand(int(patch_HW.max()) + 1, generator=generator)
        covered_HW = (drawn < float(self.config.probability) * strength)[patch_HW].to(picture.device)
        return picture.masked_fill(covered_HW, float(self.config.level))


def rotated(picture: Tensor, degrees: float) -> Tensor:
    """Return a ``[C, H, W]`` picture turned counter-clockwise about its centre."""
    height, width = picture.shape[-2:]
    angle = math.radians(degrees)
    y_H = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x_W = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    from_x_HW = math.cos(angle) * x_W - math.sin(angle) * y_H
    from_y_HW = math.sin(angle) * x_W + math.cos(angle) * y_H
    places_HW2 = torch.stack([2 * from_x_HW / width, 2 * from_y_HW / height], dim=-1).to(picture)
    return grid_sample(picture[None], places_HW2[None], padding_mode="border", align_corners=False)[0]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
