"""Rows that share a photo are trained on together or evaluated on together, however the photo is named or stored."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from saei.data.dataset import Dataset
from saei.data.photos import hold_out, photo_keys
from saei.data.presets.mmk12 import K12

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten photos, as PNG files of one size each."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for number in range(10):
        Image.fromarray(PIXELS[number]).save(tmp_path / "data" / f"{number}.png")
    return tmp_path / "data"


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(buffer, "PNG")
    return buffer.getvalue()


def as_written(folder: Path, number: int) -> str:
    return f"{number}.png"


def with_a_dot(folder: Path, number: int) -> str:
    return f"./sub/../{number}.png"


def absolute(folder: Path, number: int) -> str:
    return str(folder / f"{number}.png")


def by_a_link(folder: Path, number: int) -> str:
    link = folder / f"link-{number}.png"
    if not link.is_symlink():
        link.symlink_to(f"{number}.png")
    return link.name


def by_a_second_name(folder: Path, number: int) -> str:
    name = folder / "sub" / f"hard-{number}.png"
    if not name.exists():
        os.link(folder / f"{number}.png", name)
    return f"sub/{name.name}"


def copied(folder: Path, number: int) -> str:
    shutil.copy(folder / f"{number}.png", folder / f"copy-{number}.PNG")
    return f"copy-{number}.PNG"


def keys(folder: Path, *rows: Sequence[object]) -> list[int]:
    """Return the rows' keys as numbers, in the order of their first appearance."""
    found = photo_keys(rows, [folder])
    return [list(dict.fromkeys(found)).index(key) for key in found]


@pytest.mark.parametrize("spelling", [with_a_dot, absolute, by_a_link, by_a_second_name, copied])
def test_one_photo_has_one_key_however_it_is_spelled(folder: Path, spelling: Callable[[Path, int], str]) -> None:
    assert keys(folder, ["0.png"], ["1.png"], [spelling(folder, 0)], [spelling(folder, 1)]) == [0, 1, 0, 1]


def test_photos_inside_of_a_table_are_known_by_their_bytes(folder: Path) -> None:
    inside = [{"bytes": encoded(number), "path": f"any-{place}.png"} for place, number in enumerate((0, 1, 0))]
    assert keys(folder, *([image] for image in inside)) == [0, 1, 0]
    assert keys(folder, [encoded(0)], ["1.png"], ["0.png"], [{"bytes": None, "path": "./1.png"}]) == [0, 1, 0, 1]
    pictures = [Image.fromarray(PIXELS[number]) for number in (0, 1, 0)]
    assert keys(folder, *([picture] for picture in pictures)) == [0, 1, 0]


def test_rows_that_share_one_of_several_photos_belong_together(folder: Path) -> None:
    rows = [["0.png", "1.png"], ["2.png"], ["3.png", "1.png"], [], ["3.png"], [], ["2.png", "2.png"]]
    assert keys(folder, *rows) == [0, 1, 0, 2, 0, 3, 1]


def test_what_is_no_photo_has_a_key_too(folder: Path) -> None:
    rows = [["gone.png"], ["./gone.png"], ["https://x.org/a.png"], ["a\0b"], ["x" * 5000], [None], [3], ["../x"]]
    assert keys(folder, *rows) == [0, 0, *range(1, 7)]


def test_only_files_of_one_size_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: read.append(file.name) or whole(file))
    for name, size in (("a.png", 10), ("b.png", 11), ("c.png", 12), ("d.png", 12)):
        (folder / name).write_bytes(bytes(size))
    assert keys(folder, ["a.png"], ["b.png"], ["c.png"], ["d.png"], ["./a.png"]) == [0, 1, 2, 2, 0]
    assert sorted(read) == ["c.png", "d.png"]


def photos_of(data: Any, split: Any) -> set[bytes]:
    return {image.tobytes() for index in range(data.size(split)) for image in data.example(index, split).images}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Thirty questions about ten photos, each of which is spelled in three ways."""
    ways = (as_written, with_a_dot, copied)
    return [
        {"images": [way(folder, number)], "question": f"{place}, {number}?", "answer": "1"}
        for place, way in enumerate(ways)
        for number in range(10)
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["path", "list", "inside", "inside a list"])
def test_no_photo_is_on_both_sides(folder: Path, kind: str, seed: int) -> None:
    table = rows(folder)
    if kind == "path":
        table = [row | {"images": row["images"][0]} for row in table]
    if kind.startswith("inside"):
        images = [{"bytes": encoded(place % 10), "path": None} for place in range(len(table))]
        one = kind == "inside"
        columns = {"images": images if one else [[image] for image in images], "question": [str(n) for n in range(30)]}
        feature = datasets.Image(decode=False) if one else datasets.List(datasets.Image(decode=False))
        text = datasets.Value("string")
        features = datasets.Features({"images": feature, "question": text, "answer": text})
        datasets.Dataset.from_dict(columns | {"answer": ["1"] * 30}, features).to_parquet(folder / "rows.parquet")
    else:
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, table)))
    data = Dataset(Dataset.Config(path=str(folder), seed=seed))
    sides = photos_of(data, "train"), photos_of(data, "eval")
    assert [len(side) for side in sides] == [8, 2]
    assert not sides[0] & sides[1]
    assert (data.size("train"), data.size("eval")) == (24, 6)


def test_data_sets_with_known_columns_keep_photos_together_too(folder: Path) -> None:
    table = [
        {"id": n, "question": "?", "answer": "1", "image_path": row["images"][0]} for n, row in enumerate(rows(folder))
    ]
    (folder / "k12.json").write_text(json.dumps(table))
    data = K12(K12.Config(path=str(folder / "k12.json"), splits={"train": "train", "eval": "test"}))
    sides = photos_of(data, "train"), photos_of(data, "eval")
    assert [len(side) for side in sides] == [8, 2]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("seed", range(20))
def test_a_photo_that_most_rows_share_is_trained_on(seed: int) -> None:
    assert hold_out(["most"] * 95 + ["a", "b", "c", "d", "e"], 0.2, seed) == [95, 96, 97, 98, 99]
    assert hold_out(["most"] * 50 + ["rest"] * 49, 0.1, seed) == [*range(50, 99)]
    assert hold_out(["one"] * 5, 0.2, seed) == []
