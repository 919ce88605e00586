"""Pictures that are cut, damaged or lie about themselves: each opens as RGB, or its row is named."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import SEED, InTime, Tried, readable, size
from damage import damaged
from hostile import CONTAINERS, NUMBERS, TEXTS
from PIL import Image

from saei.data.open_image import FORMATS, MAX_PIXELS, open_image
from saei.errors import DataError

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr", "HSV")
SIZES = ((8, 6), (1, 1), (1, 500), (64, 64), (300, 2))


def encoded(kind: str, mode: str, size: tuple[int, int], chance: random.Random) -> bytes:
    """Return a picture in a format, in the mode nearest to the one asked for that the format has."""
    image = Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1]))
    exif = Image.Exif()
    exif[0x0112] = chance.randrange(12)
    buffer = io.BytesIO()
    try:
        image.convert(mode).save(buffer, kind, exif=exif)
    except (OSError, ValueError, KeyError, TypeError):
        buffer = io.BytesIO()
        image.save(buffer, kind)
    return buffer.getvalue()


def big(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Return a picture whose header claims a size that it has not."""
    places = {"PNG": (16, ">II"), "BMP": (18, "<ii"), "GIF": (6, "<HH"), "JPEG2000": (48, ">II")}
    width, height = (chance.choice((0, 1, 7, 20_000, 65_535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    raw = bytearray(content)
    at, form = places.get(kind, (content.find(b"\xff\xc0") + 5 if kind == "JPEG" else 16, ">HH"))
    most = {"I": 2**32 - 1, "i": 2**31 - 1, "H": 65_535}[form[-1]]
    raw[at : at + struct.calcsize(form)] = struct.pack(form, min(width, most), min(height, most))
    return bytes(raw)


Change = Callable[[str, bytes, random.Random], bytes]

CHANGES: dict[str, Change] = {
    "cut off": lambda kind, content, chance: content[: chance.randrange(len(content))],
    "bits turned": lambda kind, content, chance: damaged(content, chance),
    "of another size": big,
    "with something behind": lambda kind, content, chance: (
        content + chance.choice((content, b"PK\3\4", bytes(100_000)))
    ),
    "a beginning alone": lambda kind, content, chance: content[: chance.choice((2, 8, 12))] + chance.randbytes(200),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", FORMATS)
def test_pictures(kind: str, change: str, tried: Tried, in_time: InTime, tmp_path: Path) -> None:
    for number in range(size(6, 100)):
        chance = random.Random(f"{SEED} {kind} {change} {number}")
        content = CHANGES[change](kind, encoded(kind, chance.choice(MODES), chance.choice(SIZES), chance), chance)
        item: object = content
        if chance.random() < 0.3:
            (tmp_path / "a.png").write_bytes(content)
            item = "a.png"
        with in_time():
            opens(item, tmp_path, tried, f"pictures, {change}")


def test_what_is_no_picture(tried: Tried, in_time: InTime, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for item in (
        *TEXTS,
        *NUMBERS,
        *CONTAINERS,
        "folder.png",
        b"",
        {"bytes": b"", "path": "x"},
        {"path": 3},
        {"bytes": "x"},
    ):
        with in_time():
            opens(item, tmp_path, tried, "pictures that are something else")


def opens(item: object, folder: Path, tried: Tried, kind: str) -> None:
    try:
        image = open_image(item, (folder,), MAX_PIXELS, where="An image in row 7")
    except DataError as error:
        readable(error)
        assert "row 7" in str(error)  # noqa: PT017
        tried(f"{kind}: refused")
    else:
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS
        tried(f"{kind}: opened")
