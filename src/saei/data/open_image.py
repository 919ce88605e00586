"""Opening one image of a data set without trusting it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from saei.errors import DataError

MAX_PIXELS = 64_000_000
"""Default limit: above any photograph, far below what exhausts memory (192 MB as RGB)."""


def open_image(item: object, folder: Path | None, max_pixels: int, *, where: str) -> Image.Image:
    """Return an image as RGB, its size checked before a single pixel is decoded.

    Args:
        item: A PIL image, encoded bytes, a path, or the mapping with ``bytes`` and ``path`` that
            ``datasets`` gives for an undecoded image.
        folder: Where relative paths start and where all paths must stay; None if there are no local files.
        max_pixels: Largest number of pixels allowed.
        where: Names the image in errors, as the beginning of a sentence.

    Raises:
        DataError: If the image is missing, outside the folder, unreadable or too large.
    """
    if isinstance(item, Mapping):
        item = item.get("bytes") or item.get("path")
    try:
        if isinstance(item, Image.Image):
            image = item
        elif isinstance(item, bytes):
            image = Image.open(io.BytesIO(item))
        elif isinstance(item, str):
            image = Image.open(_inside(item, folder, where))
        else:
            raise TypeError(f"{type(item).__name__} is no image")
        if image.width * image.height > max_pixels:
            raise DataError(
                f"An image may have {max_pixels} pixels at most.",
                reason=f"{where} has {image.width} x {image.height}.",
                remedy="Scale it down or raise `max_image_pixels`.",
            )
        return image.convert("RGB")
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"An image may have {max_pixels} pixels at most.",
            reason=f"{where} was refused unopened: {error}",
            remedy="Scale it down.",
        ) from error
    except Exception as error:  # decoders raise whatever a broken file makes them raise
        raise DataError(
            "Every image has to open.",
            reason=f"{where} did not: {type(error).__name__}: {error}.",
            remedy="Repair or remove the file; paths are relative to the data.",
        ) from error


def _inside(path: str, folder: Path | None, where: str) -> Path:
    if folder is None:
        raise FileNotFoundError(f"'{path}' is a path, but the data is not local")
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise DataError(
            "An image path has to stay inside the folder of the data.",
            reason=f"{where} points to '{path}'.",
            remedy="Move the image into the folder and give its path relative to it.",
        )
    return found
