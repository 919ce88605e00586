"""From pictures to canvases: which of a processor's resizes and crops can be applied before the processor.

A canvas is the picture that an attack may change. It is as small as the processor allows: its own resized and cropped
picture if processing that again changes nothing, else the original, scaled down to a default size at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.errors import DataError
from saei.policy.pixels.map import Box
from saei.policy.pixels.resizing import Planes, Resize, picture, planes, resizes
from saei.policy.pixels.tracing import Process, Size

MAX_CANVAS = 4_194_304
"""Default for the largest canvas that is an original picture, in pixels."""

MAX_SIDE = 4096
"""Longest side of such a canvas: a resize is a matrix as high and wide as its picture."""

_TRIES = 6
"""How often a picture is rescaled until its canvas is within the limits."""

_SHRINK, _GROW = 0.7, 1.5
"""Factors on a picture's area from try to try; processors round sides to whole patches."""

PlaneStage: TypeAlias = tuple[Callable[[Planes], Planes], ...]
"""One step of all pictures of a prompt on the way to their canvases: a function for each picture."""


class CanvasSteps:
    """Finds the steps from pictures of some sizes to their canvases.

    Args:
        process: The processor: from the pictures of one prompt to the image inputs of the model.
        limits: Smallest and largest area of a canvas, None for none.
        used: For pictures of some sizes the box of each that reaches the processor's output.
    """

    def __init__(
        self,
        process: Process,
        limits: tuple[int | None, int | None],
        used: Callable[[Sequence[Size]], Sequence[Box]],
    ) -> None:
        self._process = process
        self._limits = limits
        self._used = used

    def find(self, sizes: Sequence[Size]) -> list[PlaneStage]:
        """Return the steps from the pictures of a prompt, of these sizes, to their canvases.

        They are found on pictures of noise, which hide no difference.

        Raises:
            DataError: If the canvases exceed the limits however the pictures are scaled.
        """
        originals = _noise(sizes)
        areas = [self._clipped(_area(picture_CHW)) for picture_CHW in originals]
        for _ in range(_TRIES):
            scaling = tuple(_scale(*pair) for pair in zip(originals, areas, strict=True))
            pictures = applied(scaling, originals)
            steps = [scaling, *self._processor_steps(pictures)]
            canvases = pictures
            for step in steps[1:]:
                canvases = applied(step, canvases)
            if all(_area(canvas_CHW) == self._clipped(_area(canvas_CHW)) for canvas_CHW in canvases):
                return steps if any(change is not _unchanged for change in scaling) else steps[1:]
            areas = [self._next_area(*pair) for pair in zip(areas, canvases, strict=True)]
        raise self._out_of_limits(originals, canvases)

    def _clipped(self, area: float) -> float:
        """Return the area within the limits that is nearest to an area."""
        least, most = self._limits
        return min(max(area, least or 0), most or math.inf)

    def _next_area(self, area: float, canvas_CHW: Planes) -> float:
        off = self._clipped(_area(canvas_CHW)) - _area(canvas_CHW)
        return area * (_SHRINK if off < 0 else _GROW if off > 0 else 1.0)

    def _out_of_limits(self, originals: Sequence[Planes], canvases: Sequence[Planes]) -> DataError:
        least, most = self._limits
        area, size = next(
            (_area(canvas), original.shape[-2:])
            for original, canvas in zip(originals, canvases, strict=True)
            if _area(canvas) != self._clipped(_area(canvas))
        )
        name, limit, verb = ("max_pixels", most, "Raise") if most and area > most else ("min_pixels", least, "Lower")
        return DataError(
            "A processor has to be able to keep model.min_pixels and model.max_pixels.",
            reason=f"model.{name} is {limit}, and of a picture of {size[1]} x {size[0]} pixels, scaled beforehand to "
            f"whatever size, it makes {area}.",
            remedy=f"{verb} model.{name}, or leave it out.",
        )

    def _processor_steps(self, originals: list[Planes], *, may_shrink: bool = True) -> list[PlaneStage]:
        """Find the steps that the processor itself takes, and those that a large picture needs."""
        steps: list[PlaneStage] = []
        pictures, output = originals, self._output(originals)
        # Resizes: the processor's first one is applied beforehand, as long as this does not change its output.
        seen_sizes = {sizes_of(pictures)}  # a processor might resize back and forth for ever
        while step := self._harmless(self._first_resizes(pictures), pictures, output):
            resized = applied(step, pictures)
            if sizes_of(resized) in seen_sizes:
                break
            steps, pictures = [*steps, step], resized
            seen_sizes.add(sizes_of(pictures))
        # A large original that no resize makes smaller is scaled down to the default size, then all is tried again.
        shrinking = tuple(self._shrinking(original) for original in originals)
        if may_shrink and not steps and any(change is not _unchanged for change in shrinking):
            return [shrinking, *self._processor_steps(applied(shrinking, originals), may_shrink=False)]
        # Crops: what the processor cuts off need not be in the canvas.
        crop = self._harmless(self._crops(pictures), pictures, output)
        return [*steps, crop] if crop else steps

    def _harmless(
        self, step: PlaneStage, pictures: Sequence[Planes], output: Mapping[str, Tensor]
    ) -> PlaneStage | None:
        """Return the changes of a step that alter a picture's size and not the processor's output.

        Each is tried by itself, on top of those that passed; None if none passes.
        """
        passed: list[Callable[[Planes], Planes]] = [_unchanged] * len(pictures)
        for number, change in enumerate(step):
            changed = applied((*passed[:number], change, *passed[number + 1 :]), pictures)
            if changed[number].shape != pictures[number].shape and _same(output, self._output(changed)):
                passed[number] = change
        return tuple(passed) if any(change is not _unchanged for change in passed) else None

    def _output(self, pictures: Sequence[Planes]) -> Mapping[str, Tensor]:
        return self._process([picture(planes_CHW) for planes_CHW in pictures])

    def _first_resizes(self, pictures: Sequence[Planes]) -> PlaneStage:
        """Return for each picture the first resize that the processor makes of the whole of it."""
        first: dict[int, Callable[[Planes], Planes]] = {}

        def record(source_LHW: Planes, resize: Resize) -> Planes:
            for number, whole in enumerate(pictures):
                if source_LHW.shape[-2:] == whole.shape[-2:] and number not in first:
                    batch = source_LHW.reshape(-1, 3, *whole.shape[-2:]) if len(source_LHW) % 3 == 0 else ()
                    if any(np.array_equal(source_CHW, whole) for source_CHW in batch):
                        first[number] = resize.apply
            return resize.apply(source_LHW)

        with resizes(record):
            self._output(pictures)
        return tuple(first.get(number, _unchanged) for number in range(len(pictures)))

    def _crops(self, pictures: Sequence[Planes]) -> PlaneStage:
        """Return for each picture the crop to what reaches the processor's output."""
        return tuple(_crop(*box) for box in self._used(sizes_of(pictures)))

    def _shrinking(self, whole: Planes) -> Callable[[Planes], Planes]:
        height, width = whole.shape[-2:]
        most = self._limits[1] or MAX_CANVAS
        return _scale(whole, min(most, _area(whole), height * width * (MAX_SIDE / max(height, width)) ** 2))


def _unchanged(planes_CHW: Planes) -> Planes:
    return planes_CHW


def _area(planes_CHW: Planes) -> int:
    return int(planes_CHW.shape[-2] * planes_CHW.shape[-1])


def _scale(whole: Planes, area: float) -> Callable[[Planes], Planes]:
    """Return the function that scales pictures of this size to an area; scaled down, they do not exceed it."""
    height, width = whole.shape[-2:]
    if area == height * width:
        return _unchanged
    share = (area / (height * width)) ** 0.5
    whole_side = math.floor if share < 1 else math.ceil
    size = (max(1, whole_side(width * share)), max(1, whole_side(height * share)))
    return lambda planes_CHW: planes(picture(planes_CHW).resize(size, Image.Resampling.LANCZOS))


def _crop(top: int, bottom: int, left: int, right: int) -> Callable[[Planes], Planes]:
    return lambda planes_CHW: np.ascontiguousarray(planes_CHW[:, top:bottom, left:right])


def applied(step: PlaneStage, pictures: Sequence[Planes]) -> list[Planes]:
    """Return pictures after a step, each by its own change."""
    return [change(planes_CHW) for change, planes_CHW in zip(step, pictures, strict=True)]


def _noise(sizes: Sequence[Size]) -> list[Planes]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]


def sizes_of(pictures: Sequence[Planes]) -> tuple[Size, ...]:
    """Return the heights and widths of pictures."""
    return tuple((planes_CHW.shape[-2], planes_CHW.shape[-1]) for planes_CHW in pictures)


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
