"""The positive control of ``lock-in``: not an attack, but the very picture that the good strategy is coupled to."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import Attack, Ball, Point, PointCriterion, Space
from saei.config.registry import register
from saei.config.strategy import Frac, StrategyConfig
from saei.data.bars import NOISE
from saei.data.images import CONTRAST, blank, to_image


@register
class FadedCopy(Attack):
    """Fades the bars of a built-in chart as ``look: faded`` does and renews the grain. Source: original."""

    spaces: ClassVar[frozenset[str]] = frozenset({"pixels"})
    origin: ClassVar[str] = "faded"

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            contrast: What is left of the bars' contrast against the paper.
        """

        type: Literal["benchmarks/faded-copy"] = "benchmarks/faded-copy"
        contrast: Frac = Field(default=Fraction(1, 4), ge=0, le=1)

    config: Config

    @property
    def ball(self) -> Ball:
        """None: it goes as far as it must."""
        return "none"

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the faded copies."""
        blocks = zip(start, space.examples, strict=True)
        return tuple(self._faded(block.detach(), generators[example]) for block, example in blocks)

    def _faded(self, canvas: Tensor, generator: torch.Generator) -> Tensor:
        contrast = float(self.config.contrast)
        paper = _canvas_of_paper().to(canvas)
        lost = (1 - contrast**2) ** 0.5 * NOISE * CONTRAST / 255  # of the grain's standard deviation, by fading it, too
        grain = lost * torch.randn(canvas.shape, generator=generator).to(canvas)
        faded = paper + contrast * (canvas - paper) + grain
        return (faded * 255).round().clamp(0, 255) / 255


def _canvas_of_paper() -> Tensor:
    pixels = torch.frombuffer(bytearray(to_image(blank()).tobytes()), dtype=torch.uint8)
    return pixels.view(*blank().shape).permute(2, 0, 1).float() / 255
