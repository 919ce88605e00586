"""Tables that are damaged or hold what nobody thought of: each row is an example or an error that names it."""

from __future__ import annotations

import datetime
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from cases import LONGEST_ERROR, LONGEST_S, SEED, Tried, acting, size
from damage import damaged
from hostile import CONTAINERS, NUMBERS, TEXTS
from PIL import Image

ROWS = [{"question": f"How many in {n}?", "answer": str(n), "image": f"{n}.png"} for n in range(5)]
VALUES = (*TEXTS, *NUMBERS, None, True, *CONTAINERS)


def png(side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Reader:
    """The process that reads; it starts again where a table ended it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("read_tables.py")
        return subprocess.Popen(
            [sys.executable, str(script), str(self._folder / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def read(self, path: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        self._process = self._start()
        return {"ended": code}

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    one = Reader(tmp_path_factory.mktemp("reader"))
    yield one
    one.end()


def csv_of(chance: random.Random) -> bytes:
    """Return a table whose cells are not quoted as they should be."""
    sign = chance.choice((",", ";", "\t"))
    heading = list(ROWS[0]) + chance.choice(([], [""], ["id"], ["answer"], ["\x1b[31m"]))
    lines = [sign.join(heading)]
    for row in ROWS:
        cells = [str(value) for value in row.values()]
        if chance.random() < 0.5:
            cells[chance.randrange(3)] = str(chance.choice(VALUES))
        if chance.random() < 0.3:
            cells.insert(chance.randrange(4), chance.choice(("", '"', '""', "x", " ")))
        lines.append(sign.join(cells))
    return chance.choice(("\n", "\r\n", "\r", "\n\n")).join(lines).encode("utf-8", "surrogatepass")


def jsonl_of(chance: random.Random) -> bytes:
    lines = []
    for row in ROWS:
        odd: Any = dict(row)
        for _ in range(chance.choice((0, 1, 2))):
            odd[chance.choice((*row, "id", "images", "", "\x1b"))] = chance.choice(VALUES)
        lines.append(json.dumps(chance.choice((odd, odd, odd, chance.choice(VALUES)))))
    return chance.choice(("\n", "\r\n", "\n\n", ",\n")).join(lines).encode()


def json_of(chance: random.Random) -> bytes:
    lines = jsonl_of(chance).replace(b",\n", b"\n").splitlines()
    whole = b"[" + b",".join(line for line in lines if line.strip()) + b"]"
    return chance.choice((whole, whole, lines[0], b'{"rows": ' + whole + b"}"))


COLUMNS: tuple[Any, ...] = (
    pyarrow.array(["a", "b", None]),
    pyarrow.array([1, None, 3]),
    pyarrow.array([1.5, float("nan"), float("inf")]),
    pyarrow.array([None, None, None]),
    pyarrow.array([True, False, None]),
    pyarrow.array([b"a", b"\xff\xfe", png()]),
    pyarrow.array([{"bytes": png(), "path": None}, {"bytes": None, "path": "0.png"}, None]),
    pyarrow.array([[{"bytes": png(), "path": "x"}], [], None]),
    pyarrow.array([["a", "b"], [], None]),
    pyarrow.array([[["a"]], [[]], None]),
    pyarrow.array([[("a", 1)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    pyarrow.array([Decimal("1.10"), None, Decimal("3.00")]),
    pyarrow.array([datetime.date(2001, 1, 1), None, datetime.date(1, 1, 1)]),
    pyarrow.array([datetime.datetime(2001, 1, 1), None, None], pyarrow.timestamp("ns", "Europe/Berlin")),
    pyarrow.array([datetime.timedelta(1), None, None]),
    pyarrow.array([datetime.time(1), None, None]),
    pyarrow.array(["a", "b", "a"]).dictionary_encode(),
    pyarrow.array([1, 2, 3], pyarrow.uint64()),
    pyarrow.array([2**63, 2, 3], pyarrow.uint64()),
    pyarrow.array(["a" * 100_000, "\0", "\x1b[31m"], pyarrow.large_string()),
    pyarrow.array([b"abcd", b"efgh", None], pyarrow.binary(4)),
    pyarrow.array([{"a": {"b": [1]}}, None, {"a": None}]),
    pyarrow.array([1.0, 2.0, None], pyarrow.float16()),
)  # fmt: skip


def parquet_of(chance: random.Random) -> bytes:
    """Return a table with columns of three types that its names promise nothing about."""
    names = ["question", "answer", "image"]
    columns = [pyarrow.array([row[name] for row in ROWS[:3]]) for name in names]
    for _ in range(chance.choice((0, 1, 2))):
        columns[chance.randrange(3)] = chance.choice(COLUMNS)
    if chance.random() < 0.2:
        names[chance.randrange(3)] = chance.choice(("id", "images", "", "\x1b", "answer"))
    # Most of what is damaged is damaged in the pages, so they are most of the file.
    notes = pyarrow.array([chance.randbytes(4000).hex() for _ in range(3)])
    table = pyarrow.Table.from_arrays([*columns, notes], names=[*names, "notes"])
    if chance.random() < 0.2:
        meta = chance.choice(
            (b"{", b"null", b'{"info": 3}', b'{"info": {"features": {"question": {"_type": "Image"}}}}')
        )
        table = table.replace_schema_metadata({b"huggingface": meta})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression=chance.choice(("snappy", "none", "zstd", "gzip")))
    return sink.getvalue()


MAKERS: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "CSV": (".csv", csv_of),
    "JSON lines": (".jsonl", jsonl_of),
    "JSON": (".json", json_of),
    "Parquet": (".parquet", parquet_of),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("how", ["odd", "damaged"])
def test_tables(reader: Reader, tried: Tried, tmp_path: Path, kind: str, how: str) -> None:
    suffix, make = MAKERS[kind]
    for n in range(5):
        (tmp_path / f"{n}.png").write_bytes(png())
    for number in range(size(25, 500)):
        chance = random.Random(f"{SEED} {kind} {how} {number}")
        content = make(chance)
        # A new name each, since what is read may be remembered by name.
        file = tmp_path / f"rows{number}{suffix}"
        file.write_bytes(content if how == "odd" else damaged(content, chance))
        result = reader.read(file)
        assert result.keys() >= {"good", "errors"}, (number, result)
        assert result["seconds"] < LONGEST_S, (number, result)
        for error in result["errors"]:
            assert len(error) < LONGEST_ERROR
            assert not acting(error), (number, error)
        tried(f"tables, {kind}, {how}: {'some rows' if result['good'] else 'refused'}")
        file.unlink()
