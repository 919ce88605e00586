"""Pictures as cameras, scanners and editors write them, and files that are none."""

from __future__ import annotations

import base64
import io
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saei.data.open_image import MAX_PIXELS, open_image
from saei.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "my photos"
    data.mkdir()
    Image.fromarray(PIXELS).save(data / "a.png")
    return data


def opened(item: object, *roots: Path, limit: int = MAX_PIXELS) -> np.ndarray:
    image = open_image(item, roots, limit, where="An image in row 7")
    assert image.mode == "RGB"
    return np.asarray(image)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, PIXELS), (3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS, -1)), (8, np.rot90(PIXELS)), (2, PIXELS[:, ::-1])],
)
def test_a_photo_is_turned_upright(orientation: int, turned: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(opened(encoded(Image.fromarray(PIXELS), "PNG", exif=exif)), turned)


def test_sixteen_bits_become_eight() -> None:
    grey = RNG.integers(0, 65_536, (6, 8), dtype=np.uint16)
    for image in (Image.fromarray(grey), Image.fromarray(grey.astype(np.int32))):
        kind = "PNG" if image.mode == "I;16" else "TIFF"
        seen = opened(encoded(image, kind))
        np.testing.assert_array_equal(seen[..., 0], grey // 257)
        np.testing.assert_array_equal(seen[..., 1], seen[..., 2])


def test_transparent_pixels_lie_on_white() -> None:
    alpha = np.array([[0, 128, 255, 255, 0, 1, 254, 10]], dtype=np.uint8).repeat(6, axis=0)
    image = Image.fromarray(np.dstack([PIXELS, alpha]))
    share = alpha[..., None] / 255
    by_hand = PIXELS * share + 255 * (1 - share)
    assert np.abs(opened(encoded(image, "PNG")) - by_hand).max() <= 1
    grey = Image.fromarray(np.dstack([PIXELS[..., 0], alpha]))
    assert grey.mode == "LA"
    assert np.abs(opened(encoded(grey, "PNG")) - by_hand[..., :1]).max() <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(opened(encoded(palette, "PNG", transparency=0)), [[[255, 255, 255], [40, 50, 60]]])


def test_other_colour_models() -> None:
    flat = Image.new("RGB", (8, 8), (200, 30, 60))
    assert np.abs(opened(encoded(flat.convert("CMYK"), "JPEG", quality=95)).astype(int) - (200, 30, 60)).max() <= 4
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(opened(encoded(Image.fromarray(grey), "PNG")), grey[..., None].repeat(3, axis=2))
    bits = Image.fromarray(grey > 127)
    np.testing.assert_array_equal(opened(encoded(bits, "PNG"))[..., 0], 255 * (grey > 127))
    few = Image.fromarray(PIXELS).quantize(4)
    np.testing.assert_array_equal(opened(encoded(few, "PNG")), np.asarray(few.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "MPO"])
def test_the_first_of_several_frames(kind: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = opened(encoded(red, kind, save_all=True, append_images=[blue], **options))
    assert np.abs(seen.astype(int) - np.asarray(red)).max() <= (2 if kind == "MPO" else 0)  # a JPEG inside


def test_the_name_of_a_file_does_not_decide_what_it_is(folder: Path) -> None:
    (folder / "a.png").rename(folder / "a.jpg")
    np.testing.assert_array_equal(opened("a.jpg", folder), PIXELS)


def test_names_with_spaces_and_accents_in_either_form(folder: Path) -> None:
    name = "sub folder/Café à Zürich 北京.png"
    (folder / "sub folder").mkdir()
    for stored, asked in (("NFD", "NFC"), ("NFC", "NFD")):
        target = folder / unicodedata.normalize(stored, name)
        (folder / "a.png").rename(target)
        np.testing.assert_array_equal(opened(unicodedata.normalize(asked, name), folder), PIXELS)
        target.rename(folder / "a.png")


def test_the_second_folder_serves_where_the_first_has_no_such_file(folder: Path) -> None:
    (folder / "train").mkdir()
    np.testing.assert_array_equal(opened("a.png", folder / "train", folder), PIXELS)
    np.testing.assert_array_equal(opened("../a.png", folder / "train", folder), PIXELS)


JPEG = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (JPEG[: len(JPEG) // 2], "truncated"),
        (b"\x89PNG\r\n\x1a\n rubbish", "OSError"),
        (b"", "none of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "none of JPEG, PNG"),
    ],
    ids=["truncated", "rubbish", "empty", "a program"],
)
def test_a_file_that_is_no_picture(folder: Path, content: bytes, said: str) -> None:
    (folder / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"has to open.*row 7 did not \('b\.png'\).*{said}"):
        opened("b.png", folder)


def test_a_file_that_is_not_there(folder: Path) -> None:
    for path in ("gone.png", "."):
        with pytest.raises(DataError, match=rf"row 7 did not: there is no file '{path}' in .*my photos"):
            opened(path, folder)


@pytest.mark.parametrize("side", [9_000, 2_000_000])
def test_an_enormous_image_is_refused_by_its_header(folder: Path, side: int) -> None:
    (folder / "large.png").write_bytes(png_header(side, side))
    with pytest.raises(DataError, match="pixels at most"):
        opened("large.png", folder)
    with pytest.raises(DataError, match="pixels at most"):
        opened(png_header(side, side))


def test_the_limit_is_on_the_number_of_pixels(folder: Path) -> None:
    assert opened("a.png", folder, limit=48).shape == (6, 8, 3)
    with pytest.raises(DataError, match=r"47 pixels at most.*8 x 6"):
        opened("a.png", folder, limit=47)


@pytest.mark.parametrize("path", ["../secret.png", "{outside}/secret.png", "link.png"])
def test_a_path_stays_inside_the_folder(folder: Path, path: str) -> None:
    Image.fromarray(PIXELS).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    with pytest.raises(DataError, match="inside the folder"):
        opened(path.format(outside=folder.parent), folder)
    np.testing.assert_array_equal(opened(str(folder / "a.png"), folder), PIXELS)


@pytest.mark.parametrize("url", ["https://example.org/a.png", "file:///etc/hosts"])
def test_nothing_is_fetched(folder: Path, url: str) -> None:
    with pytest.raises(DataError, match=r"never fetched.*row 7 is '"):
        opened(url, folder)


@pytest.mark.parametrize("item", [3, None, {"bytes": None, "path": None}])
def test_a_cell_that_is_no_image(folder: Path, item: object) -> None:
    with pytest.raises(DataError, match="has to open"):
        opened(item, folder)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("prefix", ["", "data:image/any;base64,"])
def test_base64_is_called_by_its_name_and_cut(folder: Path, kind: str, prefix: str) -> None:
    text = prefix + base64.b64encode(encoded(Image.fromarray(PIXELS).resize((40, 40)), kind)).decode()
    with pytest.raises(DataError, match=r"row 7 is text in base64.*into a file") as refused:
        opened(text, folder)
    assert len(str(refused.value)) < 300


def test_a_long_name_is_not_taken_for_base64(folder: Path) -> None:
    for name in ("photographs/2024/" + "a" * 80, "q" * 100 + ".png"):
        with pytest.raises(DataError, match=r"row 7 did not: there is no file"):
            opened(name, folder)


def text_chunk(key: bytes, body: bytes) -> bytes:
    content = key + b"\0" + body
    return struct.pack(">I", len(content)) + b"tEXt" + content + struct.pack(">I", zlib.crc32(b"tEXt" + content))


@pytest.mark.parametrize(
    "metadata",
    [
        {"tEXt": b"\nexif\n      24\n4578696600004d4d002a00000zzz\n"},
        {"tEXt": b"\nexif\n      12\n0102030405060708090a0b0c\n"},
        {"exif": b"Exif\0\0not a header at all"},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\1abcd\0\0\0\0"},  # a text for an orientation
    ],
)
def test_damaged_metadata_leaves_good_pixels(folder: Path, metadata: dict[str, bytes]) -> None:
    whole = encoded(Image.fromarray(PIXELS), "PNG", **({"exif": metadata["exif"]} if "exif" in metadata else {}))
    if "tEXt" in metadata:
        whole = whole[:33] + text_chunk(b"Raw profile type exif", metadata["tEXt"]) + whole[33:]
    np.testing.assert_array_equal(opened(whole), PIXELS)
    (folder / "b.png").write_bytes(whole)
    np.testing.assert_array_equal(opened("b.png", folder), PIXELS)
