"""The resizes that an image processor makes, intercepted in Pillow and torchvision.

Whatever a processor is made of, it resizes through one of these two. Intercepted there, its resizes are known for every
family without a line about any of them. Source: original.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Planes: TypeAlias = NDArray[Any]
"""``[L, H, W]``: the channels of a picture, or of several pictures of one size."""

MAX_PIXELS = 64_000_000
"""Largest area that a processor may enlarge a picture to, far above what any model takes."""

_LOCK = RLock()


@dataclass(frozen=True, eq=False)
class Resize:
    """One resize, independent of the picture that it was called for.

    Attributes:
        source: Height and width before.
        target: Height and width after.
        apply: The resize itself, with its rounding, of 8-bit planes.
        along: The same of float32 along one axis: ``along(square, size)`` resizes the columns of a square.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    apply: Callable[[Planes], Planes]
    along: Callable[[Planes, int], Planes]

    @cached_property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """The float32 matrices ``[h', h]`` and ``[w', w]`` of the resize along each axis, from resized identities."""
        rows, columns = (
            torch.from_numpy(np.array(self.along(np.eye(old, dtype=np.float32), new)))
            for old, new in zip(self.source, self.target, strict=True)
        )
        return rows, columns

    @cached_property
    def rows_first(self) -> bool:
        """Whether the height is resized first, which decides where values saturate; measured on noise."""
        noise = np.random.default_rng(0).integers(0, 256, (1, *self.source), dtype=np.uint8)
        wanted = torch.from_numpy(self.apply(noise).astype(np.float32) / 255)
        first, last = (self._linear(torch.from_numpy(noise).float() / 255, rows_first=order) for order in (True, False))
        return bool((first - wanted).abs().max() < (last - wanted).abs().max())

    def linear(self, picture_LHW: Tensor) -> Tensor:
        """Return the resized picture without rounding, differentiable; either axis saturates at 0 and 1."""
        return self._linear(picture_LHW, rows_first=self.rows_first)

    def _linear(self, picture_LHW: Tensor, *, rows_first: bool) -> Tensor:
        rows, columns = (matrix.to(picture_LHW) for matrix in self.matrices)
        if rows_first:
            return ((rows @ picture_LHW).clamp(0, 1) @ columns.T).clamp(0, 1)
        return (rows @ (picture_LHW @ columns.T).clamp(0, 1)).clamp(0, 1)


OnResize: TypeAlias = Callable[[Planes, Resize], Planes]
"""``on_resize(planes, resize)`` gets the picture that is to be resized and returns the one to continue with."""


@contextmanager
def resizes(on_resize: OnResize) -> Iterator[None]:
    """Hand every resize inside the block to ``on_resize``, except those that change no size."""
    places: list[tuple[Any, Any]] = [(Image.Image, _pillow(Image.Image.resize, on_resize))]
    functional = sys.modules.get("torchvision.transforms.v2.functional")
    if functional is not None:
        places.append((functional, _torchvision(functional.resize, on_resize)))
    with _LOCK:  # the replaced functions belong to the whole process
        originals = [place.resize for place, _ in places]
        try:
            for place, replacement in places:
                place.resize = replacement
            yield
        finally:
            for (place, _), original in zip(places, originals, strict=True):
                place.resize = original


def _pillow(original: Any, on_resize: OnResize) -> Any:
    def resize(
        self: Image.Image, size: Any, resample: Any = None, box: Any = None, reducing_gap: float | None = None
    ) -> Any:
        width, height = (int(side) for side in size)
        _guard(height, width)
        if box is not None or reducing_gap is not None or self.mode not in ("RGB", "L"):
            return original(self, size, resample, box, reducing_gap)  # then the trace finds no map
        if (width, height) == self.size:
            return self.copy()

        def apply(planes_LHW: Planes) -> Planes:
            return planes(original(picture(planes_LHW), (width, height), resample))

        def along(square: Planes, new: int) -> Planes:
            return np.asarray(original(Image.fromarray(square), (square.shape[1], new), resample))

        return picture(on_resize(planes(self), Resize((self.height, self.width), (height, width), apply, along)))

    return resize


def _torchvision(original: Any, on_resize: OnResize) -> Any:
    def resize(inpt: Any, size: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(inpt, Tensor) or len(size) != 2:
            return original(inpt, size, *arguments, **options)
        height, width = (int(side) for side in size)
        _guard(height, width)
        shape = inpt.shape
        if (height, width) == tuple(shape[-2:]):
            return inpt.clone()

        def apply(planes_LHW: Planes) -> Planes:
            return np.asarray(original(torch.from_numpy(planes_LHW), [height, width], *arguments, **options))

        def along(square: Planes, new: int) -> Planes:
            return np.asarray(
                original(torch.from_numpy(square)[None], [new, square.shape[1]], *arguments, **options)[0]
            )

        called = Resize((shape[-2], shape[-1]), (height, width), apply, along)
        resized = on_resize(np.ascontiguousarray(inpt.reshape(-1, *shape[-2:])), called)
        return torch.from_numpy(np.ascontiguousarray(resized)).to(inpt.dtype).view(*shape[:-2], height, width)

    return resize


def planes(image: Image.Image) -> Planes:
    """Return the channels of a picture."""
    array = np.array(image)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def picture(planes_LHW: Planes) -> Image.Image:
    """Return the picture of one or three channels."""
    array = planes_LHW[0] if len(planes_LHW) == 1 else planes_LHW.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array))


def _guard(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"the image processor would blow it up to {width} x {height} pixels")
