"""How each element of an image processor's output comes from the pixels, traced with coded pictures.

Every value on the way has a number: the 256 levels of grey, the pixels of the canvases, then those of each picture that
the processor resizes. The processor is run on pictures whose pixels spell their own numbers, eight bits at a time; each
element of its output then spells the number of the value it was made from. So no family's order of patches, tiles or
channels is written down here, temporal copies of a pixel stay tied, and the map from pixels to output is exact and
differentiable. Source: original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.errors import ModelError
from saei.policy.pixels.map import LEVELS, PIXELS, Box, PixelMap, Stage
from saei.policy.pixels.resizing import Planes, Resize, picture, resizes

Process: TypeAlias = Callable[[Sequence[Image.Image]], Mapping[str, Tensor]]
"""The processor: from the pictures of one prompt to the image inputs of the model."""

Size: TypeAlias = tuple[int, int]
"""Height and width."""

_TOLERANCE = 2e-5
"""Largest deviation from the processor's own output, in units of the [0, 1] range; float32 leaves 1e-6."""

_ROUNDING = 1.5 / 255
"""Deviation that one resize adds: Pillow rounds after each axis, and lobes of the kernel amplify the first rounding."""


def trace(process: Process, sizes: Sequence[Size]) -> PixelMap:
    """Return the map from the canvases of a prompt to the processor's output.

    Args:
        process: The processor.
        sizes: Height and width of each canvas.

    Raises:
        ModelError: If the processor does more than resize, move and normalise pixels.
    """
    black = _Pass(process, sizes, lambda numbers: np.zeros_like(numbers))
    white = _Pass(process, sizes, lambda numbers: np.full_like(numbers, 255))
    digits = [
        _Pass(process, sizes, lambda numbers, power=power: (numbers >> (8 * power)) & 255)
        for power in range((black.total.bit_length() + 7) // 8)
    ]
    for name, value in black.extras.items():
        if not torch.equal(value, white.extras[name]):
            raise _no_map(f"its output `{name}` depends on the picture")
    blocks = _Blocks([*((3, *size) for size in sizes), *black.shapes], len(sizes))
    stages: list[Stage] = []
    for number, resize in enumerate(black.resizes):
        source_LHW = _source(number, black, white, digits)
        depth = 1 + blocks.depth_of(source_LHW, stages)
        stages.append(Stage(resize, source_LHW.to(torch.int32), depth))
    pixel_map = _pixel_map(black, white, digits, blocks, stages)
    _check(process, sizes, pixel_map, blocks, stages)
    return pixel_map


class _Blocks:
    """Numbers of the values of canvases and stages: blocks of planes, one after another, after the levels of grey."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]], canvases: int) -> None:
        self.shapes = shapes
        self.canvases = canvases
        self.starts = torch.tensor([0, *(int(np.prod(shape)) for shape in shapes)]).cumsum(0) + LEVELS
        areas = [shape[1] * shape[2] for shape in shapes for _ in range(shape[0])]
        self.plane_starts = torch.tensor([0, *areas]).cumsum(0)[:-1] + LEVELS

    def planes_of(self, numbers: Tensor) -> Tensor:
        """Return the plane of each value, counted through all blocks."""
        return torch.bucketize(numbers, self.plane_starts, right=True) - 1

    def depth_of(self, numbers: Tensor, stages: Sequence[Stage]) -> int:
        """Return the most resizes that any of the values has gone through."""
        # The blocks of stages that are still to be traced have no depth yet.
        hits = self._hits(numbers)[self.canvases :]
        return max((stage.depth for stage, hit in zip(stages, hits, strict=False) if hit), default=0)

    def depths_of(self, numbers: Tensor, stages: Sequence[Stage]) -> Tensor:
        """Return how many resizes each value has gone through."""
        depths = [0] * self.canvases + [stage.depth for stage in stages]
        by_plane = [depth for depth, shape in zip(depths, self.shapes, strict=True) for _ in range(shape[0])]
        return torch.tensor(by_plane)[self.planes_of(numbers)]

    def _hits(self, numbers: Tensor) -> list[bool]:
        """Return for each block whether some of the numbers lie in it."""
        bounds = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return [bool(((numbers >= start) & (numbers < end)).any()) for start, end in bounds]


class _Pass:
    """One run of the processor on pictures whose pixels are 8-bit codes of their numbers: ``code(numbers)``."""

    def __init__(self, process: Process, sizes: Sequence[Size], code: Callable[..., Planes]) -> None:
        self.resizes: list[Resize] = []
        self.sources: list[Tensor] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.total = LEVELS
        self._code = code
        canvases = [picture(self._numbers((3, *size))) for size in sizes]
        with resizes(self._record):
            output = dict(process(canvases))
        if PIXELS not in output:
            raise _no_map(f"it has no `{PIXELS}` in its output, only {', '.join(output)}")
        pixels = output.pop(PIXELS)
        self.pixels = pixels.float()
        self.half = pixels.dtype.itemsize < 4
        self.extras = output

    def _record(self, planes_LHW: Planes, resize: Resize) -> Planes:
        """Record a resize and return a picture of new numbers in place of its result."""
        self.resizes.append(resize)
        self.sources.append(torch.from_numpy(planes_LHW.astype(np.int64)))
        self.shapes.append((len(planes_LHW), *resize.target))
        return self._numbers(self.shapes[-1])

    def _numbers(self, shape: tuple[int, int, int]) -> Planes:
        """Return the next numbers, coded."""
        start, self.total = self.total, self.total + int(np.prod(shape))
        return self._code(np.arange(start, self.total).reshape(shape)).astype(np.uint8)


def _source(number: int, black: _Pass, white: _Pass, digits: Sequence[_Pass]) -> Tensor:
    """Return the numbers of the values that a resized picture is made of."""
    low, high = black.sources[number], white.sources[number]
    if not bool((high - low == 0).logical_or(high - low == 255).all()):
        raise _no_map("it changes pictures before it resizes them")
    spelled = torch.zeros_like(low)
    for power, digit in enumerate(digits):
        spelled += digit.sources[number] << (8 * power)
    return torch.where(high > low, spelled, low)  # what is the same in black and white is a constant grey


def _pixel_map(
    black: _Pass, white: _Pass, digits: Sequence[_Pass], blocks: _Blocks, stages: Sequence[Stage]
) -> PixelMap:
    # An element is `value * factor + shift` of one value, or a constant where black and white give the same.
    shift, factor = black.pixels.flatten(), (white.pixels - black.pixels).flatten()
    live = factor != 0
    spelled = torch.zeros(len(shift), dtype=torch.long)
    for power, digit in enumerate(digits):
        spelled += ((digit.pixels.flatten() - shift) / factor.where(live, 1.0) * 255).round().long() << (8 * power)
    spelled = spelled.where(live, LEVELS)
    if bool((spelled < LEVELS).any()) or bool((spelled >= black.total).any()):
        raise _no_map("its output is not made of single pixels")
    plane = blocks.planes_of(spelled)
    by_plane = torch.zeros(2, len(blocks.plane_starts))
    for of_plane, of_element in zip(by_plane, (factor, shift), strict=True):
        of_plane[plane[live]] = of_element[live]
        if bool(((of_plane[plane] - of_element).abs() > _TOLERANCE * of_element.abs())[live].any()):
            raise _no_map("it normalises pixels of one channel in several ways")
    constants, constant_index = shift[~live].unique(return_inverse=True)
    index = spelled - LEVELS
    index[~live] = black.total - LEVELS + constant_index
    channels = [channel % 3 for shape in blocks.shapes for channel in range(shape[0])]
    std = torch.zeros(3)
    for channel, plane_factor in zip(channels, by_plane[0].tolist(), strict=True):
        if plane_factor:
            std[channel] = 1 / abs(plane_factor)
    plane_counts = [shape[0] for shape in blocks.shapes]
    factors, shifts = ([part.view(-1, 1, 1) for part in of_plane.split(plane_counts)] for of_plane in by_plane)
    return PixelMap(
        stages=tuple(stages),
        rounds=bool(stages) or black.half,
        factors=tuple(factors),
        shifts=tuple(shifts),
        constants=constants,
        index=index.to(torch.int32),
        shape=black.pixels.shape,
        extras=black.extras,
        std_C11=std.view(3, 1, 1),
        used=_used([spelled[live], *(stage.source_LHW.flatten().long() for stage in stages)], black.total, blocks),
    )


def _used(sources: Sequence[Tensor], total: int, blocks: _Blocks) -> tuple[Box, ...]:
    """Return for each canvas the box around the pixels whose numbers are among the sources of output and stages."""
    reached = torch.zeros(total, dtype=torch.bool)
    for numbers in sources:
        reached[numbers] = True
    boxes = []
    for number in range(blocks.canvases):
        used_HW = reached[blocks.starts[number] : blocks.starts[number + 1]].view(blocks.shapes[number]).any(0)
        rows, columns = (used_HW.any(axis).nonzero()[:, 0] for axis in (1, 0))
        if not len(rows):
            raise _no_map("a picture does not reach its output")
        boxes.append((int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1))
    return tuple(boxes)


def _check(
    process: Process, sizes: Sequence[Size], pixel_map: PixelMap, blocks: _Blocks, stages: Sequence[Stage]
) -> None:
    """Compare the map with the processor itself on random pictures.

    Raises:
        ModelError: If they differ by more than rounding explains.
    """
    rng = np.random.default_rng(0)
    random = [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]
    expected = process([picture(planes) for planes in random])[PIXELS]
    half = 0.0 if expected.dtype.itemsize >= 4 else torch.finfo(expected.dtype).eps * float(expected.abs().max())
    mapped = pixel_map([torch.from_numpy(planes).float() / 255 for planes in random])
    deviation = (mapped - expected.float()).abs() - half
    allowed: Tensor | float = _TOLERANCE
    if stages:
        depths = blocks.depths_of(pixel_map.index.long() + LEVELS, stages)
        allowed = _TOLERANCE + _ROUNDING * depths.view(pixel_map.shape)
    if bool((deviation * pixel_map.std_C11.min() > allowed).any()):
        raise _no_map("its output is not an affine function of the pixels")


def _no_map(reason: str) -> ModelError:
    return ModelError(
        "The image processor may resize, move and normalise pixels, no more, so that gradients reach the picture that "
        "the policy sees.",
        reason=f"Here {reason}.",
        remedy="Use another model.",
    )
