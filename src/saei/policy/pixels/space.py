"""Pixel space: from pictures to the 8-bit canvases that the policy sees, and from canvases to model inputs.

A canvas is the picture that an attack may change, one per image. It is as small as the processor allows: its own
resized and cropped picture if processing that again changes nothing, else the original. So ``processor(PNG(canvas))``
is what the policy sees, and no pixel is attacked that it does not see.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.data.open_image import to_rgb
from saei.errors import DataError, ModelError, SaeiError, out_of_memory
from saei.policy.pixels.map import PIXELS, PixelMap
from saei.policy.pixels.resizing import Planes, Resize, picture, planes, resizes
from saei.policy.pixels.tracing import Process, Size, trace

GRID = 1 / 255
"""Spacing of canvas values."""

MAX_CANVAS = 4_194_304
"""Default for the largest canvas that is an original picture, in pixels."""

MAX_SIDE = 4096
"""Longest side of such a canvas: a resize is a matrix as high and wide as its picture."""

_MAPS_BYTES = 512 * 1024**2
"""Memory for maps; a data set of photographs has a new size nearly each time."""

_TRIES = 6
"""How often a picture is scaled anew until its canvas keeps the limits."""

_SHRINK, _GROW = 0.7, 1.5
"""Factors on a picture's area from try to try; processors round sides to whole patches."""

_PROBES: tuple[Size, ...] = ((64, 64), (384, 512))
"""Pictures that show at once whether limits can be kept."""

PlaneStage: TypeAlias = tuple[Callable[[Planes], Planes], ...]
"""One change of all pictures of a prompt, each by its own function, on the way to their canvases."""


class PixelSpace:
    """The pixel space of one processor; what becomes of pictures of certain sizes is found out once.

    Args:
        process: The processor: from the pictures of one prompt to the image inputs of the model.
        max_pixels: Largest area of a canvas, for processors without such a limit of their own: pictures are scaled to
            it before the processor sees them. None for none, but an original picture is scaled down to a default.
        dtype: Type of the inputs that come from pixels, None for that of the canvases.
        min_pixels: Smallest area of a canvas, likewise; None for none.

    Raises:
        ModelError: If the processor itself makes canvases that are outside of these limits.

    Attributes:
        limits: ``min_pixels`` and ``max_pixels``.
    """

    def __init__(
        self,
        process: Process,
        max_pixels: int | None = None,
        dtype: torch.dtype | None = None,
        min_pixels: int | None = None,
    ) -> None:
        self._process = process
        self._dtype = dtype
        self.limits = (min_pixels, max_pixels)
        self._maps: OrderedDict[tuple[Size, ...], PixelMap] = OrderedDict()
        self._steps: dict[tuple[Size, ...], list[PlaneStage]] = {}
        if self.limits != (None, None):
            self._check_limits()

    def canvas(self, image: Image.Image) -> Tensor:
        """Return the canvas of a picture that is alone in its prompt; see ``canvases``."""
        return self.canvases([image])[0]

    def canvases(self, images: Sequence[Image.Image]) -> tuple[Tensor, ...]:
        """Return the float32 ``[C, H, W]`` canvas of each picture of a prompt, on the grid of multiples of 1/255.

        Raises:
            DataError: If a picture cannot be read or the processor refuses it.
            ModelError: If the processor does more than resize, move and normalise pixels.
        """
        if not images:
            return ()
        try:
            pictures = [planes(to_rgb(image)) for image in images]
            sizes = _sizes(pictures)
            if sizes not in self._steps:
                self._steps[sizes] = self._find_steps(_noise(sizes))
            for step in self._steps[sizes]:
                pictures = _taken(step, pictures)
            self.map(*_sizes(pictures))
        except SaeiError:
            raise
        except Exception as error:  # decoders and processors raise whatever a picture makes them raise
            if out_of_memory(error):
                raise
            raise DataError(
                "An image has to open and to have a shape that the image processor accepts.",
                reason=f"{type(error).__name__}: {error}.",
                remedy="Replace the file, or leave the example out.",
            ) from error
        return tuple(torch.tensor(one).float() / 255 for one in pictures)

    def map(self, *sizes: Size) -> PixelMap:
        """Return what the processor does to the canvases of one prompt, by their heights and widths.

        Raises:
            ModelError: If it does more than resize, move and normalise pixels.
        """
        if sizes in self._maps:
            self._maps.move_to_end(sizes)
        else:
            self._maps[sizes] = trace(self._process, sizes)
            while len(self._maps) > 1 and sum(found.size_bytes for found in self._maps.values()) > _MAPS_BYTES:
                self._maps.popitem(last=False)
        return self._maps[sizes]

    def inputs(self, prompts: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        """Return the model inputs for the canvases of several prompts, differentiable in them."""
        found = [self._inputs(canvases) for canvases in prompts if canvases]
        return {name: _batched([inputs[name] for inputs in found]) for name in found[0]} if found else {}

    def _inputs(self, canvases: Sequence[Tensor]) -> dict[str, Tensor]:
        pixels = self.map(*((canvas.shape[-2], canvas.shape[-1]) for canvas in canvases))
        values = pixels(canvases)
        if pixels.rounds:
            # The value is the processor's own, the gradient that of the same without rounding.
            with torch.no_grad():
                rounded = [(canvas * 255).round() / 255 for canvas in canvases]
                official = self._process([to_image(canvas) for canvas in rounded])[PIXELS].to(values)
                rounding = official - pixels(rounded)
            values = values + rounding
        if self._dtype is not None:
            values = values.to(self._dtype)
        return {PIXELS: values, **{name: value.to(values.device) for name, value in pixels.extras.items()}}

    def _find_steps(self, originals: list[Planes]) -> list[PlaneStage]:
        """Find the steps from pictures to their canvases; pictures of noise, on which no difference can hide.

        Raises:
            DataError: If the canvases do not keep the limits, however the pictures are scaled.
        """
        areas = [self._clipped(_area(picture_CHW)) for picture_CHW in originals]
        for _ in range(_TRIES):
            scaling = tuple(_scale(*pair) for pair in zip(originals, areas, strict=True))
            pictures = _taken(scaling, originals)
            steps = [scaling, *self._processor_steps(pictures)]
            canvases = pictures
            for step in steps[1:]:
                canvases = _taken(step, canvases)
            if all(_area(canvas_CHW) == self._clipped(_area(canvas_CHW)) for canvas_CHW in canvases):
                return steps if any(change is not _kept for change in scaling) else steps[1:]
            areas = [self._next_area(*pair) for pair in zip(areas, canvases, strict=True)]
        raise self._out_of_limits(originals, canvases)

    def _clipped(self, area: float) -> float:
        """Return the area within the limits that is nearest to an area."""
        least, most = self.limits
        return min(max(area, least or 0), most or math.inf)

    def _next_area(self, area: float, canvas_CHW: Planes) -> float:
        off = self._clipped(_area(canvas_CHW)) - _area(canvas_CHW)
        return area * (_SHRINK if off < 0 else _GROW if off > 0 else 1.0)

    def _out_of_limits(self, originals: Sequence[Planes], canvases: Sequence[Planes]) -> DataError:
        least, most = self.limits
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

    def _check_limits(self) -> None:
        for size in _PROBES:
            try:
                self._find_steps(_noise([size]))
            except DataError as error:
                raise ModelError(error.rule, reason=error.reason, remedy=error.remedy) from error

    def _processor_steps(self, originals: list[Planes], *, may_shrink: bool = True) -> list[PlaneStage]:
        """Find the steps that the processor itself leads to, and that a large picture needs."""
        steps: list[PlaneStage] = []
        pictures, output = originals, self._output(originals)
        met = {_sizes(pictures)}  # a picture of one colour may be resized to and fro for ever
        while step := self._harmless(self._first_resizes(pictures), pictures, output):
            if _sizes(smaller := _taken(step, pictures)) in met:
                break
            steps, pictures = [*steps, step], smaller
            met.add(_sizes(pictures))
        shrinking = tuple(self._shrinking(one) for one in originals)
        if may_shrink and not steps and any(change is not _kept for change in shrinking):
            return [shrinking, *self._processor_steps(_taken(shrinking, originals), may_shrink=False)]
        step = self._harmless(self._crops(pictures), pictures, output)
        return [*steps, step] if step else steps

    def _harmless(
        self, step: PlaneStage, pictures: Sequence[Planes], output: Mapping[str, Tensor]
    ) -> PlaneStage | None:
        """Return what of a step changes the sizes of pictures and nothing that the processor makes of them."""
        kept: list[Callable[[Planes], Planes]] = [_kept] * len(pictures)
        for number, change in enumerate(step):
            trial = (*kept[:number], change, *kept[number + 1 :])
            taken = _taken(trial, pictures)
            if taken[number].shape != pictures[number].shape and _same(output, self._output(taken)):
                kept[number] = change
        return tuple(kept) if any(change is not _kept for change in kept) else None

    def _output(self, pictures: Sequence[Planes]) -> Mapping[str, Tensor]:
        return self._process([picture(one) for one in pictures])

    def _first_resizes(self, pictures: Sequence[Planes]) -> PlaneStage:
        """Return for each picture the first resize that the processor makes of the whole of it."""
        found: dict[int, Callable[[Planes], Planes]] = {}

        def seen(source_LHW: Planes, resize: Resize) -> Planes:
            for number, whole in enumerate(pictures):
                if source_LHW.shape[-2:] == whole.shape[-2:] and number not in found:
                    several = source_LHW.reshape(-1, 3, *whole.shape[-2:]) if len(source_LHW) % 3 == 0 else ()
                    if any(np.array_equal(one, whole) for one in several):
                        found[number] = resize.apply
            return resize.apply(source_LHW)

        with resizes(seen):
            self._output(pictures)
        return tuple(found.get(number, _kept) for number in range(len(pictures)))

    def _crops(self, pictures: Sequence[Planes]) -> PlaneStage:
        """Return for each picture the crop to what reaches the processor's output."""
        return tuple(_crop(*box) for box in self.map(*_sizes(pictures)).used)

    def _shrinking(self, whole: Planes) -> Callable[[Planes], Planes]:
        height, width = whole.shape[-2:]
        most = self.limits[1] or MAX_CANVAS
        return _scale(whole, min(most, _area(whole), height * width * (MAX_SIDE / max(height, width)) ** 2))


def to_image(canvas: Tensor) -> Image.Image:
    """Return the RGB picture of a canvas; exact, since canvases are on the 8-bit grid."""
    return picture((canvas.detach().cpu() * 255).round().to(torch.uint8).numpy())


def _kept(planes_CHW: Planes) -> Planes:
    return planes_CHW


def _area(planes_CHW: Planes) -> int:
    return int(planes_CHW.shape[-2] * planes_CHW.shape[-1])


def _scale(whole: Planes, area: float) -> Callable[[Planes], Planes]:
    """Return what scales pictures of a picture's size to an area; a smaller one is never exceeded."""
    height, width = whole.shape[-2:]
    if area == height * width:
        return _kept
    share = (area / (height * width)) ** 0.5
    whole_side = math.floor if share < 1 else math.ceil
    size = (max(1, whole_side(width * share)), max(1, whole_side(height * share)))
    return lambda planes_CHW: planes(picture(planes_CHW).resize(size, Image.Resampling.LANCZOS))


def _crop(top: int, bottom: int, left: int, right: int) -> Callable[[Planes], Planes]:
    return lambda planes_CHW: np.ascontiguousarray(planes_CHW[:, top:bottom, left:right])


def _taken(step: PlaneStage, pictures: Sequence[Planes]) -> list[Planes]:
    return [change(one) for change, one in zip(step, pictures, strict=True)]


def _noise(sizes: Sequence[Size]) -> list[Planes]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]


def _sizes(pictures: Sequence[Planes]) -> tuple[Size, ...]:
    return tuple((one.shape[-2], one.shape[-1]) for one in pictures)


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _batched(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; along the others smaller ones are filled up with zeros, as processors do."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = []
    for part in parts:
        gaps = [wanted - size for wanted, size in zip(shape, part.shape[1:], strict=True)]
        if any(gaps):
            part = torch.nn.functional.pad(part, [number for gap in reversed(gaps) for number in (0, gap)])
        filled.append(part)
    return torch.cat(filled)
