"""Opening one image of a data set without trusting it."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from saei.errors import DataError, out_of_memory, shown

MAX_PIXELS = 64_000_000
"""Default limit: above any photograph, far below what exhausts memory (192 MB as RGB)."""

Image.init()  # otherwise Pillow has registered only some of its decoders
_SAFE: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
FORMATS = tuple(name for name in _SAFE if name in Image.OPEN)
"""Decoders that files are shown to, whatever their names end in; others run programs (EPS) or are no pictures."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
_ENCODED = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "Qk0", "SUkq", "TU0A")
"""How JPEG, PNG, WebP, GIF, BMP and TIFF begin in base64."""

_TURN: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of an EXIF orientation upright."""

_ORIENTATION = 0x0112


def open_image(item: object, roots: Sequence[Path], max_pixels: int, *, where: str) -> Image.Image:
    """Return an image upright and as RGB, its size checked before a single pixel is decoded.

    Args:
        item: A PIL image, encoded bytes, a path, or the mapping with ``bytes`` and ``path`` that
            ``datasets`` gives for an undecoded image.
        roots: Folders that paths have to stay in; relative ones start at the first that has the file.
        max_pixels: Largest number of pixels allowed.
        where: Names the image in errors, as the beginning of a sentence.

    Raises:
        DataError: If the image is missing, outside the folders, unreadable or too large.
    """
    if isinstance(item, Mapping):
        item = item.get("bytes") or item.get("path")
    try:
        if isinstance(item, Image.Image):
            image = item
        elif isinstance(item, bytes):
            image = Image.open(io.BytesIO(item), formats=FORMATS)
        elif isinstance(item, str):
            image = Image.open(find_image(item, roots, where), formats=FORMATS)
        else:
            raise TypeError(f"{type(item).__name__} is not an image")
        if image.width * image.height > max_pixels:
            raise DataError(
                f"An image may have {max_pixels} pixels at most.",
                reason=f"{where} has {image.width} x {image.height}.",
                remedy="Scale it down or raise `max_image_pixels`.",
            )
        image.load()
        return to_rgb(_upright(image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"An image may have {max_pixels} pixels at most.",
            reason=f"{where} was refused unopened: {error}",
            remedy="Scale it down.",
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            "Every image has to open.",
            reason=f"{where} did not{_named(item)}: it is none of {', '.join(FORMATS)}.",
            remedy="Save it as JPEG or PNG, or remove the row.",
        ) from error
    except Exception as error:  # decoders raise whatever a broken file makes them raise
        if out_of_memory(error):
            raise
        raise DataError(
            "Every image has to open.",
            reason=f"{where} did not{_named(item)}: {type(error).__name__}: {shown(str(error), 200)}.",
            remedy="Repair or replace the file, or remove the row.",
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture of any mode as 8-bit RGB: the first frame, transparent pixels laid on white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image).clip(0, 65_535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Return a picture turned by its EXIF orientation; damaged EXIF is ignored, since the pixels are good."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow's parsers of EXIF, XMP and raw profiles raise errors of all kinds
        return image
    turn = _TURN.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _is_base64(text: str) -> bool:
    if text.lower().startswith("data:"):
        return True
    joined = "".join(text[:256].split())
    return _BASE64.fullmatch(joined) is not None and (joined.startswith(_ENCODED) or len(text) > 4096)


def _named(item: object) -> str:
    return f" ('{shown(item, 100)}')" if isinstance(item, str) else ""


def find_image(path: str, roots: Sequence[Path], where: str) -> Path:
    """Return the file that a path means, with links followed.

    Args:
        path: As the table has it.
        roots: Folders that it has to stay in; a relative one starts at the first that has the file.
        where: Names the image in errors, as the beginning of a sentence.

    Raises:
        DataError: If there is no such file, or it lies elsewhere.
        OSError: If the path is none, for its length for example.
        ValueError: Likewise.
    """
    if _is_base64(path):
        raise DataError(
            "An image is a file or stands as bytes in a Parquet table.",
            reason=f"{where} is text in base64: {shown(path, 30)}",
            remedy="Decode it into a file beside the table and give its path.",
        )
    if _URL.match(path):
        raise DataError(
            "Images are read from disk and never fetched.",
            reason=f"{where} is '{shown(path, 100)}'.",
            remedy="Download it beside the data and give its path.",
        )
    if not roots:
        raise FileNotFoundError("the path is relative, but the data has no folder")
    candidates = [(root / _as_stored(root, path)).resolve() for root in roots]
    inside = [file for file in candidates if any(file.is_relative_to(root.resolve()) for root in roots)]
    if not inside:
        raise DataError(
            "An image path has to stay inside the folder of the data.",
            reason=f"{where} points to '{shown(path, 100)}'.",
            remedy="Move the image into the folder and give its path relative to it.",
        )
    for file in inside:
        if file.is_file():
            return file
    raise DataError(
        "Every image has to open.",
        reason=f"{where} did not: there is no file '{shown(path, 100)}' in {roots[0]}.",
        remedy="Correct the path, which starts at the folder of the table, or remove the row.",
    )


def _as_stored(root: Path, path: str) -> str:
    """Return the path in the Unicode form that the disk has: file names from a Mac are decomposed, tables seldom."""
    forms = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    return next((form for form in forms if (root / form).exists()), path)
