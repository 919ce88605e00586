"""How each element of an image processor's output comes from the pixels, found out by showing it coded pictures.

Every value that exists on the way has a number: the 256 levels of grey, the pixels of the canvases, then those of each
picture that was resized inside. Pictures whose pixels spell their own numbers, eight bits at a time, show at each place
of the output which value stands there. So no family's order of patches, tiles or channels is written down here,
temporal copies of one pixel are tied, and the way back to the pixels is exact and differentiable. Source: original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.errors import ModelError
from saei.policy.resizing import Planes, Resize, picture, resizes

Process: TypeAlias = Callable[[Sequence[Image.Image]], Mapping[str, Tensor]]
"""The processor: from the pictures of one prompt to the image inputs of the model."""

Size: TypeAlias = tuple[int, int]
"""Height and width."""

PIXELS = "pixel_values"
LEVELS = 256

_TOLERANCE = 2e-5
"""Largest deviation from the processor's own output, in units of the [0, 1] range; float32 leaves 1e-6."""

_ROUNDING = 1.5 / 255
"""What one resize adds to it: Pillow rounds after either axis, and a kernel with lobes amplifies the first."""


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
    """What a processor does to the canvases of one prompt, without the rounding of its resizes.

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
        used: For each canvas the rows and columns that reach the output: ``(top, bottom, left, right)``.
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
    used: tuple[tuple[int, int, int, int], ...]

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


def trace(process: Process, sizes: Sequence[Size]) -> PixelMap:
    """Find out what a processor does to the canvases of a prompt.

    Args:
        process: The processor.
        sizes: Height and width of each canvas.

    Raises:
        ModelError: If it does something else to pixels than to resize, move and normalise them.
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
    starts = _starts([*((3, *size) for size in sizes), *black.shapes])
    sources = [_source(number, black, white, digits) for number in range(len(black.sources))]
    depths = [0] * len(sizes)
    for source in sources:
        blocks = np.searchsorted(starts, np.unique(source[source >= LEVELS]), side="right") - 1
        depths.append(1 + max((depths[block] for block in np.unique(blocks)), default=-1))
    stages = tuple(
        Stage(resize, torch.from_numpy(source.astype(np.int32)), depth)
        for resize, source, depth in zip(black.resizes, sources, depths[len(sizes) :], strict=True)
    )
    found = _output(black, white, digits, sizes, stages, starts)
    _check(process, sizes, found, depths, starts)
    return found


class _Pass:
    """One showing of pictures of numbers: ``code(numbers)`` gives the 8-bit value of each."""

    def __init__(self, process: Process, sizes: Sequence[Size], code: Callable[..., Planes]) -> None:
        self.resizes: list[Resize] = []
        self.sources: list[Planes] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.total = LEVELS
        self._code = code
        canvases = [picture(self._numbers((3, *size))) for size in sizes]
        with resizes(self._seen):
            output = dict(process(canvases))
        if PIXELS not in output:
            raise _no_map(f"it has no `{PIXELS}` in its output, only {', '.join(output)}")
        pixels = output.pop(PIXELS)
        self.pixels = pixels.float()
        self.half = pixels.dtype.itemsize < 4
        self.extras = output

    def _seen(self, planes_LHW: Planes, resize: Resize) -> Planes:
        self.resizes.append(resize)
        self.sources.append(planes_LHW.astype(np.int64))
        self.shapes.append((len(planes_LHW), *resize.target))
        return self._numbers(self.shapes[-1])

    def _numbers(self, shape: tuple[int, int, int]) -> Planes:
        start, self.total = self.total, self.total + int(np.prod(shape))
        return self._code(np.arange(start, self.total).reshape(shape)).astype(np.uint8)


def _source(number: int, black: _Pass, white: _Pass, digits: Sequence[_Pass]) -> Planes:
    """Return the numbers of the values that a resized picture is made of."""
    low, high = black.sources[number], white.sources[number]
    if not np.isin(high - low, (0, 255)).all():
        raise _no_map("it changes pictures before it resizes them")
    spelled = sum((one.sources[number] << (8 * power) for power, one in enumerate(digits)), np.zeros_like(low))
    return np.where(high > low, spelled, low)


def _output(
    black: _Pass, white: _Pass, digits: Sequence[_Pass], sizes: Sequence[Size], stages: Sequence[Stage], starts: Planes
) -> PixelMap:
    shift, factor = black.pixels.flatten(), (white.pixels - black.pixels).flatten()
    live = factor != 0
    spelled = torch.zeros(len(shift), dtype=torch.long)
    for power, one in enumerate(digits):
        spelled[live] += ((one.pixels.flatten()[live] - shift[live]) / factor[live] * 255).round().long() << (8 * power)
    if bool((spelled[live] < LEVELS).any()) or bool((spelled >= black.total).any()):
        raise _no_map("its output is not made of single pixels")
    constants, which = shift[~live].unique(return_inverse=True)
    index = spelled - LEVELS
    index[~live] = black.total - LEVELS + which
    shapes = [*((3, *size) for size in sizes), *black.shapes]
    factors, shifts, std = [], [], torch.zeros(3)
    for start, shape in zip(starts, shapes, strict=True):
        area = shape[1] * shape[2]
        normal = torch.zeros(2, shape[0])
        own = live & (spelled >= start) & (spelled < start + shape[0] * area)
        plane = (spelled[own] - start) // area
        for number, values in enumerate((factor[own], shift[own])):
            normal[number, plane] = values
            if bool(((normal[number, plane] - values).abs() > _TOLERANCE * values.abs()).any()):
                raise _no_map("it normalises pixels of one channel in several ways")
        factors.append(normal[0].view(-1, 1, 1))
        shifts.append(normal[1].view(-1, 1, 1))
        for channel in range(shape[0]):
            if normal[0, channel] != 0:
                std[channel % 3] = 1 / normal[0, channel].abs()
    used = _used(spelled[live].numpy(), sizes, stages, starts)
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
        used=used,
    )


def _used(
    shown: Planes, sizes: Sequence[Size], stages: Sequence[Stage], starts: Planes
) -> tuple[tuple[int, int, int, int], ...]:
    numbers = np.unique(np.concatenate([shown, *(stage.source_LHW.flatten().numpy() for stage in stages)]))
    boxes = []
    for start, (height, width) in zip(starts, sizes, strict=False):
        own = numbers[(numbers >= start) & (numbers < start + 3 * height * width)] - start
        if not len(own):
            raise _no_map("a picture does not reach its output")
        rows, columns = own // width % height, own % width
        boxes.append((int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1))
    return tuple(boxes)


def _check(process: Process, sizes: Sequence[Size], found: PixelMap, depths: Sequence[int], starts: Planes) -> None:
    """Compare the map with the processor itself on random pictures."""
    rng = np.random.default_rng(0)
    random = [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]
    expected = process([picture(one) for one in random])[PIXELS]
    half = 0.0 if expected.dtype.itemsize >= 4 else torch.finfo(expected.dtype).eps * float(expected.abs().max())
    ours = found([torch.from_numpy(one).float() / 255 for one in random])
    blocks = torch.searchsorted(torch.from_numpy(starts - LEVELS), found.index.long(), right=True) - 1
    allowed = _TOLERANCE + _ROUNDING * torch.tensor(depths, dtype=torch.float32)[blocks].view(found.shape)
    if bool((((ours - expected.float()).abs() - half) * found.std_C11.min() > allowed).any()):
        raise _no_map("its output is not an affine function of the pixels")


def _starts(shapes: Sequence[tuple[int, int, int]]) -> Planes:
    """Return the number of the first value of each block."""
    ends = LEVELS + np.cumsum([int(np.prod(shape)) for shape in shapes])
    return np.concatenate([[LEVELS], ends[:-1]])


def _no_map(reason: str) -> ModelError:
    return ModelError(
        "The image processor may resize, move and normalise pixels, no more, so that gradients reach the picture that "
        "the policy sees.",
        reason=f"Here {reason}.",
        remedy="Use another model.",
    )
