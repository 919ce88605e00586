"""The ``dataset`` task on small local files, good and bad."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from saei.data.dataset import Dataset
from saei.errors import DataError, SaeiError

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(PIXELS).save(data / "a.png")
    return data


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def row(**changes: Any) -> dict[str, Any]:
    return {"images": ["a.png"], "problem": "<image>How many?", "answer": 3} | changes


def task(path: str, **fields: Any) -> Dataset:
    return Dataset(Dataset.Config(path=path, **fields))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_row_becomes_an_example(folder: Path) -> None:
    data = task(write(folder, row(), row(problem="Two <image2> of <image>?", images=["a.png", "a.png"])))
    assert data.size() == 2
    first, second = data.example(0), data.example(1)
    assert (first.question, first.answer, first.id) == ("How many?", "3", "train-0")
    np.testing.assert_array_equal(np.asarray(first.images[0]), PIXELS)
    assert len(second.images) == 2
    assert second.question == "Two  of ?"
    assert data.example(5).id == "train-1"


def test_columns_can_be_named(folder: Path) -> None:
    path = write(folder, {"q": "?", "a": "x", "picture": "a.png", "n": 7})
    columns = {"images": "picture", "question": "q", "answer": "a", "id": "n"}
    example = task(path, columns=columns).example(0)
    assert (example.id, example.answer, len(example.images)) == ("7", "x", 1)


@pytest.mark.parametrize("listed", [True, False])
def test_images_inside_a_parquet_file(folder: Path, listed: bool) -> None:
    picture = Image.fromarray(PIXELS)
    feature = datasets.List(datasets.Image()) if listed else datasets.Image()
    text = datasets.Value("string")
    table = datasets.Dataset.from_dict(
        {"images": [[picture] if listed else picture], "problem": ["?"], "answer": ["1"]},
        features=datasets.Features({"images": feature, "problem": text, "answer": text}),
    )
    table.to_parquet(folder / "rows.parquet")
    example = task(str(folder / "rows.parquet")).example(0)
    np.testing.assert_array_equal(np.asarray(example.images[0]), PIXELS)


def test_csv_without_images(folder: Path) -> None:
    (folder / "rows.csv").write_text("problem,answer\n1 + 1?,2\n")
    example = task(str(folder / "rows.csv"), columns={"images": None}).example(0)
    assert (example.question, example.answer, example.images) == ("1 + 1?", "2", ())


def test_a_folder_has_the_splits_of_its_file_names(folder: Path) -> None:
    (folder / "train.jsonl").write_text(json.dumps(row(answer="t")))
    (folder / "test.jsonl").write_text(json.dumps(row(answer="e")))
    (folder / "a.png").rename(folder / "b.png")
    (folder / "images").mkdir()
    (folder / "b.png").rename(folder / "images" / "a.png")
    data = task(str(folder), columns={"images": None})
    assert (data.example(0).answer, data.example(0, "eval").answer) == ("t", "e")


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", ""), ("a.json", "[]"), ("a.jsonl", "\n"), ("a.csv", "images,problem,answer\n")]
)
def test_an_empty_data_set(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError, match="at least one row"):
        task(str(folder / name)).size()


def test_a_missing_column_names_those_there_are(folder: Path) -> None:
    path = write(folder, {"images": ["a.png"], "question": "?", "answer": "1"})
    with pytest.raises(DataError, match=r"columns\.question.*has no 'problem'; it has images, question, answer"):
        task(path).size()


@pytest.mark.parametrize("name", ["missing.jsonl", "a.png"])
def test_data_that_cannot_be_read(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="readable"):
        task(str(folder / name)).size()


@pytest.mark.parametrize("answer", ["", "  ", None])
def test_an_empty_answer_names_the_row(folder: Path, answer: str | None) -> None:
    data = task(write(folder, row(answer="x"), row(answer=answer)))
    data.example(0)
    with pytest.raises(DataError, match="'answer' is empty in row 1"):
        data.example(1)


def test_an_image_that_does_not_open(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    data = task(write(folder, row(images=["broken.png"]), row(images=["gone.png"])))
    for index in (0, 1):
        with pytest.raises(DataError, match=rf"has to open.*row {index}"):
            data.example(index)


def test_an_enormous_image_is_refused_by_its_header(folder: Path) -> None:
    (folder / "large.png").write_bytes(png_header(9_000, 9_000))
    (folder / "bomb.png").write_bytes(png_header(2_000_000, 2_000_000))
    data = task(write(folder, row(images=["large.png"]), row(images=["bomb.png"]), row()))
    for index in (0, 1):
        with pytest.raises(DataError, match="pixels at most"):
            data.example(index)
    with pytest.raises(DataError, match=r"15 pixels at most.*4 x 4"):
        task(str(folder / "rows.jsonl"), max_image_pixels=15).example(2)


@pytest.mark.parametrize("path", ["../secret.png", "{outside}/secret.png"])
def test_a_path_stays_inside_the_folder(folder: Path, path: str) -> None:
    Image.fromarray(PIXELS).save(folder.parent / "secret.png")
    data = task(write(folder, row(images=[path.format(outside=folder.parent)])))
    with pytest.raises(DataError, match="inside the folder"):
        data.example(0)


def test_a_split_that_is_not_mapped(folder: Path) -> None:
    with pytest.raises(SaeiError, match="'eval' split"):
        task(write(folder, row()), splits={"train": "train"}).size("eval")
