"""Pixel space: from pictures to the 8-bit canvases that the policy sees, and from canvases to model inputs.

A canvas is the picture that an attack may change, one per image. It is as small as the processor allows: its own
resized and cropped picture if processing that again changes nothing, else the original. So ``processor(PNG(canvas))``
is what the policy sees, and no pixel is attacked that it does not see.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from saei.data.open_image import to_rgb
from saei.errors import DataError, ModelError, SaeiError, out_of_memory
from saei.policy.pixels.canvases import CanvasSteps, PlaneStage, applied, sizes_of
from saei.policy.pixels.map import PIXELS, Box, PixelMap
from saei.policy.pixels.resizing import picture, planes
from saei.policy.pixels.tracing import Process, Size, trace

GRID = 1 / 255
"""Spacing of canvas values."""

_MAPS_BYTES = 512 * 1024**2
"""Memory for maps, of which a data set of photographs needs a new one for nearly every picture."""

_PROBES: tuple[Size, ...] = ((64, 64), (384, 512))
"""Sizes of pictures on which the limits are tried when a policy is built."""


class PixelSpace:
    """The pixel space of one processor; what it does to pictures of given sizes is traced once.

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
        self._canvas_steps = CanvasSteps(process, self.limits, self._used)
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
            sizes = sizes_of(pictures)
            if sizes not in self._steps:
                self._steps[sizes] = self._canvas_steps.find(sizes)
            for step in self._steps[sizes]:
                pictures = applied(step, pictures)
            self.map(*sizes_of(pictures))
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
        return tuple(torch.tensor(planes_CHW).float() / 255 for planes_CHW in pictures)

    def map(self, *sizes: Size) -> PixelMap:
        """Return what the processor does to the canvases of one prompt, by their heights and widths.

        Raises:
            ModelError: If it does more than resize, move and normalise pixels.
        """
        if sizes in self._maps:
            self._maps.move_to_end(sizes)
        else:
            self._maps[sizes] = trace(self._process, sizes)
            while len(self._maps) > 1 and sum(pixel_map.size_bytes for pixel_map in self._maps.values()) > _MAPS_BYTES:
                self._maps.popitem(last=False)
        return self._maps[sizes]

    def inputs(self, prompts: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        """Return the model inputs for the canvases of several prompts, differentiable in them."""
        by_prompt = [self._inputs(canvases) for canvases in prompts if canvases]
        return {name: _batched([inputs[name] for inputs in by_prompt]) for name in by_prompt[0]} if by_prompt else {}

    def _check_limits(self) -> None:
        for size in _PROBES:
            try:
                self._canvas_steps.find([size])
            except DataError as error:
                raise ModelError(error.rule, reason=error.reason, remedy=error.remedy) from error

    def _used(self, sizes: Sequence[Size]) -> Sequence[Box]:
        return self.map(*sizes).used

    def _inputs(self, canvases: Sequence[Tensor]) -> dict[str, Tensor]:
        pixels = self.map(*((canvas.shape[-2], canvas.shape[-1]) for canvas in canvases))
        values = pixels(canvases)
        if pixels.rounds:
            # The value is the processor's own; the gradient is that of the map, which does not round.
            with torch.no_grad():
                rounded = [(canvas * 255).round() / 255 for canvas in canvases]
                official = self._process([to_image(canvas) for canvas in rounded])[PIXELS].to(values)
                rounding = official - pixels(rounded)
            values = values + rounding
        if self._dtype is not None:
            values = values.to(self._dtype)
        return {PIXELS: values, **{name: value.to(values.device) for name, value in pixels.extras.items()}}


def to_image(canvas: Tensor) -> Image.Image:
    """Return the RGB picture of a canvas; exact, since canvases are on the 8-bit grid."""
    return picture((canvas.detach().cpu() * 255).round().to(torch.uint8).numpy())


def _batched(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; along the others pad smaller ones with zeros, as processors do."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = []
    for part in parts:
        gaps = [wanted - size for wanted, size in zip(shape, part.shape[1:], strict=True)]
        if any(gaps):
            part = torch.nn.functional.pad(part, [number for gap in reversed(gaps) for number in (0, gap)])
        filled.append(part)
    return torch.cat(filled)
