"""What a processor does to the canvases of one prompt, as a differentiable function of them.

Every value on the way has a number: the 256 levels of grey, the pixels of the canvases, then those of each picture that
the processor resizes. Each element of the output is one of these values, normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from saei.policy.pixels.resizing import Resize

PIXELS = "pixel_values"
"""Name that models and processors have for the input that comes from pixels."""

LEVELS = 256

Box: TypeAlias = tuple[int, int, int, int]
"""Rows and columns of a canvas: ``(top, bottom, left, right)``."""


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """A picture that is resized inside the processor.

    Attributes:
        resize: The resize.
        source_LHW: int32 numbers of the values that it is made of.
        depth: Resizes that its values have gone through.
    """

    resize: Resize
    source_LHW: Tensor
    depth: int


@dataclass(frozen=True, eq=False, slots=True)
class PixelMap:
    """What a processor does to the canvases of one prompt, except for the rounding of its resizes.

    Attributes:
        stages: The pictures that it resizes, in order.
        rounds: Whether the processor rounds, because it resizes or gives half precision; else the map is exact.
        factors: For canvases and stages the normalisation of each plane, ``[L, 1, 1]``: ``value * factor + shift``.
        shifts: The same for the shifts.
        constants: Normalised values that come from no pixel, such as padding.
        index: int32, for each element of the output the value that stands there: of the canvases, the stages, the
            constants, all flat.
        shape: Shape of the output.
        extras: The processor's further outputs, such as ``image_grid_thw``.
        std_C11: The model's standard deviation per channel, in units of the [0, 1] range.
        used: For each canvas the rows and columns that reach the output.
    """

    stages: tuple[Stage, ...]
    rounds: bool
    factors: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]
    constants: Tensor
    index: Tensor
    shape: torch.Size
    extras: Mapping[str, Tensor]
    std_C11: Tensor
    used: tuple[Box, ...]

    def __call__(self, canvases: Sequence[Tensor]) -> Tensor:
        """Return the output for ``[C, H, W]`` canvases, differentiable in them."""
        like = canvases[0]
        blocks = list(canvases)
        if self.stages:
            values = torch.cat([torch.arange(LEVELS).to(like) / 255, *(block.flatten() for block in blocks)])
            for stage in self.stages:
                source = values.index_select(0, stage.source_LHW.flatten().to(like.device))
                blocks.append(stage.resize.linear(source.view(stage.source_LHW.shape)))
                values = torch.cat([values, blocks[-1].flatten()])
        normalised = [
            (block * factor.to(like) + shift.to(like)).flatten()
            for block, factor, shift in zip(blocks, self.factors, self.shifts, strict=True)
        ]
        if len(self.constants):
            normalised.append(self.constants.to(like))
        table = torch.cat(normalised) if len(normalised) > 1 else normalised[0]
        return table.index_select(0, self.index.to(like.device)).view(self.shape)

    @property
    def size_bytes(self) -> int:
        """Memory of the map."""
        return 4 * (self.index.numel() + sum(stage.source_LHW.numel() for stage in self.stages))
