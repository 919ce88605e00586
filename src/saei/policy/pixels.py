"""Pixel space: from a picture to the 8-bit canvas that the policy sees, and from a canvas to model inputs.

The canvas of a picture is the image processor's own resized picture. Every element of the processor's output is
one canvas value times a factor plus a constant; which one is found out once per canvas size with index-coded
pictures, so that no family's patch order is written down here, and the way back from the model's input to the pixel
is an exact, differentiable gather. Temporal copies of one pixel are thereby tied. Source: original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saei.errors import DataError, ModelError

GRID = 1 / 255
"""Spacing of canvas values."""

_AFFINE_TOLERANCE = 2e-5
"""Largest deviation of the gather from the processor's output, in its normalised units; float32 leaves 1e-6."""


@dataclass(frozen=True, eq=False, slots=True)
class ProcessorMap:
    """What the processor does to a canvas of one size: ``output = canvas[index] * factor + shift``.

    Attributes:
        index: int64, for each element of the output the flat position in the ``[C, H, W]`` canvas.
        factor: float32 per element of the output.
        shift: float32 per element of the output.
        shape: Shape of the output of one picture.
        extras: The processor's further outputs for one picture, such as ``image_grid_thw``.
        std_C11: The model's standard deviation per channel, in units of the [0, 1] range.
    """

    index: Tensor
    factor: Tensor
    shift: Tensor
    shape: torch.Size
    extras: Mapping[str, Tensor]
    std_C11: Tensor

    def __call__(self, canvas: Tensor) -> Tensor:
        """Return the processor's output for a ``[C, H, W]`` canvas, differentiable in the canvas."""
        device = canvas.device
        values = canvas.flatten().index_select(0, self.index.to(device))
        return (values * self.factor.to(device) + self.shift.to(device)).view(self.shape)


class PixelSpace:
    """The pixel space of one image processor; maps are made on first use of a size and kept.

    Args:
        image_processor: A Hugging Face image processor.
    """

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor
        self._maps: dict[tuple[int, int], ProcessorMap] = {}

    def canvas(self, image: Image.Image) -> Tensor:
        """Return the float32 ``[C, H, W]`` canvas of a picture, on the grid of multiples of 1/255.

        Raises:
            DataError: If the picture cannot be read or the processor refuses it.
            ModelError: If the processor does more than resize, gather and normalise.
        """
        try:
            output = self._process(to_rgb(image))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                "An image has to open and to have a shape that the image processor accepts.",
                reason=f"{type(error).__name__}: {error}.",
                remedy="Replace the file, or leave the example out.",
            ) from error
        size = self._size(output)
        pixels = self.map(size)
        values = (output["pixel_values"].flatten() - pixels.shift) / pixels.factor
        canvas = torch.zeros(3 * size[0] * size[1])
        canvas[pixels.index] = (values * 255).round().clamp(0, 255) / 255
        return canvas.view(3, *size)

    def map(self, size: tuple[int, int]) -> ProcessorMap:
        """Return the processor's map for canvases of a (height, width).

        Raises:
            ModelError: If the processor changes pictures of its own output size in another way than by gathering
                and normalising pixels.
        """
        if size not in self._maps:
            self._maps[size] = self._probe(*size)
        return self._maps[size]

    def inputs(self, canvases: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the model inputs of several canvases, concatenated in their order."""
        if not canvases:
            return {}
        maps = [self.map((canvas.shape[-2], canvas.shape[-1])) for canvas in canvases]
        device = canvases[0].device
        inputs = {name: torch.cat([pixels.extras[name] for pixels in maps]).to(device) for name in maps[0].extras}
        inputs["pixel_values"] = torch.cat([pixels(canvas) for pixels, canvas in zip(maps, canvases, strict=True)])
        return inputs

    def _process(self, image: Image.Image) -> dict[str, Tensor]:
        return dict(self._processor(images=[image], return_tensors="pt"))

    def _size(self, output: Mapping[str, Tensor]) -> tuple[int, int]:
        if "image_grid_thw" in output:
            _, rows, columns = output["image_grid_thw"][0].tolist()
            return rows * self._processor.patch_size, columns * self._processor.patch_size
        height, width = output["pixel_values"].shape[-2:]
        return int(height), int(width)

    def _probe(self, height: int, width: int) -> ProcessorMap:
        """Find out the map by showing pictures that code a canvas position in their pixels."""

        def show(array_HWC: np.ndarray) -> dict[str, Tensor]:
            return self._process(Image.fromarray(array_HWC))

        def constant(*rgb: int) -> np.ndarray:
            return np.broadcast_to(np.array(rgb, dtype=np.uint8), (height, width, 3)).copy()

        black = show(constant(0, 0, 0))
        shift = black["pixel_values"].flatten().float()
        factor = show(constant(255, 255, 255))["pixel_values"].flatten().float() - shift

        def digit(array_HWC: np.ndarray) -> Tensor:
            """Return the 8-bit value that each output element shows."""
            values = (show(array_HWC)["pixel_values"].flatten() - shift) / factor
            return (values * 255).round().long()

        if self._size(black) != (height, width) or bool((factor == 0).any()):
            raise _not_invertible(f"a {width}x{height} picture is resized, padded or cropped again")
        position = np.arange(height * width).reshape(height, width)
        index = digit(constant(0, 1, 2)) * (height * width)
        for power in range(max(1, (int(position.max()).bit_length() + 7) // 8)):
            coded = ((position >> (8 * power)) & 255).astype(np.uint8)
            index += digit(np.repeat(coded[..., None], 3, axis=2)) << (8 * power)
        complete = torch.zeros(3 * height * width, dtype=torch.bool)
        in_range = bool(((index >= 0) & (index < complete.numel())).all())
        if in_range:
            complete[index] = True
        if not in_range or not bool(complete.all()):
            raise _not_invertible("some pixels cannot be found in its output")
        std = torch.tensor([1 / float(factor[index // (height * width) == channel][0]) for channel in range(3)])
        shape = black["pixel_values"].shape
        extras = {name: value for name, value in black.items() if name != "pixel_values"}
        found = ProcessorMap(index, factor, shift, shape, extras, std.view(3, 1, 1))
        random = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = show(random)["pixel_values"].float()
        ours = found(torch.from_numpy(random).permute(2, 0, 1).float() / 255)
        if float((ours - expected).abs().max()) > _AFFINE_TOLERANCE * float(factor.abs().max()):
            raise _not_invertible("its output is not an affine function of single pixels")
        return found


def to_image(canvas: Tensor) -> Image.Image:
    """Return the RGB picture of a canvas; exact, since canvases are on the 8-bit grid."""
    array = (canvas.detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture as RGB; transparent pixels are laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _not_invertible(reason: str) -> ModelError:
    return ModelError(
        "The image processor has to leave pictures of its own output size as they are, apart from normalising "
        "and reordering pixels, so that gradients reach the picture that the policy sees.",
        reason=f"Here {reason}.",
        remedy="Use a model whose processor only resizes, normalises and cuts patches, or the sampler `clean`.",
    )
