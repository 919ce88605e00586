"""Tables as people and programs write them: each row stands alone, and one that is damaged is named and shifts none."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from saei.data.dataset import Dataset
from saei.data.readers import MAX_ROW
from saei.errors import DataError

GOOD = {"question": "How many?", "answer": "1"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def outcomes(path: Path, **columns: Any) -> list[str | tuple[str, str]]:
    """Return question and answer of each row, or why it cannot be used."""
    fields = {"splits": {"train": "train"}, "columns": {"images": None} | columns}
    data = Dataset(Dataset.Config.model_validate({"path": str(path), **fields}))
    found: list[str | tuple[str, str]] = []
    for index in range(data.size()):
        try:
            example = data.example(index)
        except DataError as error:
            reason = error.reason.replace(f"Row {index} of {path} ", "").replace(f" in row {index} of {path}", "")
            found.append(reason if error.remedy and reason != error.reason else f"unnamed: {error}")
        else:
            found.append((example.question, example.answer))
    return found


CSV = {
    "one field too many": (
        "question,answer,image\nHow many, in all?,1,a.png\nHow many?,2,b.png\n",
        ["has 4 fields, and the heading names 3", ("How many?", "2")],
    ),
    "thousands without quotation marks": (
        "question,answer,image\nHow many?,1,000,a.png\nHow many?,2,500,b.png\n",
        ["has 4 fields, and the heading names 3"] * 2,
    ),
    "too many only later": (
        "question,answer\n" + "a,1\n" * 50 + "b,c,2\n" + "d,3\n",
        [("a", "1")] * 50 + ["has 3 fields, and the heading names 2", ("d", "3")],
    ),
    "a heading that ends in a comma": ("question,answer,image,\nHow many?,1,a.png,\n", [("How many?", "1")]),
    "text behind such a heading": (
        "question,answer,image,\nHow many?,1,000,a.png\nAnd here?,2,a.png\n",
        ["has 4 fields, and the heading names 3", ("And here?", "2")],
    ),
    "a row that ends in commas": ("question,answer\nHow many?,1,,\n", [("How many?", "1")]),
    "rows without their last, empty cells": ("question,answer,notes\nHow many?,1\n", [("How many?", "1")]),
    "numbered rows without a heading for the numbers": (",question,answer\n0,How many?,1\n", [("How many?", "1")]),
    "spaces after commas": ('question, answer, image\n"So, many?", "1,5", a.png\n', [("So, many?", "1,5")]),
    "lines that end as on Windows": ('question,answer\r\n"two\r\nlines",1\r\n', [("two\r\nlines", "1")]),
    "no end of the last line": ("question,answer\na,1", [("a", "1")]),
    "empty lines": ("\n\nquestion,answer\n\na,1\n\n\nb,2\n", [("a", "1"), ("b", "2")]),
    "a quotation mark that is never closed": (
        'question,answer\na,1\n"b,2\nc,3\nd,4\n',
        [("a", "1"), "has a quotation mark that is never closed", ("c", "3"), ("d", "4")],
    ),
    "quotation marks inside of a text": (
        'question,answer\na 5" pipe,1\n"say ""b""",2\n',
        [('a 5" pipe', "1"), ('say "b"', "2")],
    ),
    "a separator inside of the heading": ('question;answer;"a, b, c, d"\nx;1,5;y\n', [("x", "1,5")]),
    "dates and numbers": ("question,answer\na,2021-05-01\nb,1e5\nc,007\nd,NULL\n",
                          [("a", "2021-05-01"), ("b", "1e5"), ("c", "007"), ("d", "NULL")]),
    "NUL": ("question,answer\na\0b,1\nc,2\n", ["Column 'question' holds a NUL", ("c", "2")]),
    "an enormous cell": ("question,answer\n" + "x" * 200_000 + ",1\nc,2\n",
                         ["is not a line of a CSV file", ("c", "2")]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "right"), CSV.values(), ids=CSV.keys())
def test_csv(tmp_path: Path, text: str, right: list[str | tuple[str, str]]) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8", newline="")
    for found, expected in zip(outcomes(tmp_path / "rows.csv"), right, strict=True):
        assert found[: len(expected)] == expected


def test_a_byte_that_is_no_utf8_costs_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("question,answer\nWie groß?,1\n".encode("latin-1") + b"b,2\n")
    assert outcomes(tmp_path / "rows.csv") == ["is not UTF-8.", ("b", "2")]
    lines = [json.dumps(GOOD).encode(), b'{"question": "gro\xdf", "answer": 2}', json.dumps(GOOD).encode()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    assert outcomes(tmp_path / "rows.jsonl") == [("How many?", "1"), "is not UTF-8.", ("How many?", "1")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("question,answer\n".encode("utf-16"), "it is UTF-16"),
        ("größe,answer\n1,2\n".encode("latin-1"), "its heading is not UTF-8"),
        (b"question,answer,answer\na,1,2\n", "two columns are called 'answer'"),
        (b'"",,\n', "its first line names no column"),
        (b'question,"answer\na,1\n', "its heading has a quotation mark that is never closed"),
    ],
)
def test_a_heading_that_names_no_columns(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"has to be readable.*rows.csv: {said}"):
        outcomes(tmp_path / "rows.csv")


LINES: Mapping[str, tuple[str, str]] = {
    "null": ("null", "is null, no JSON object"),
    "a number": ("3", "is a number, no JSON object"),
    "a text": ('"a"', "is a text, no JSON object"),
    "a list": ("[1, 2]", "is a list, no JSON object"),
    "no JSON": ("{'question': 'a'}", "is no JSON (Expecting property name"),
    "a cut line": ('{"question": "a", "ans', "is no JSON (Unterminated string"),
    "two objects": ('{"a": 1} {"b": 2}', "is no JSON (Extra data"),
    "NULs": ("\0\0\0", "is no JSON (Expecting value"),
    "deep brackets": ("[" * 100_000, "is no JSON (maximum recursion depth exceeded"),
    "a deep cell": ('{"question": ' + "[" * 200 + "]" * 200 + ', "answer": 1}', "Column 'question' holds a list"),
    "an object for an answer": ('{"question": "a", "answer": {"b": [1]}}', "Column 'answer' holds a dict"),
    "half of a surrogate pair": (r'{"question": "\ud83d", "answer": 1}', "Column 'question' holds a lone surrogate"),
    "a NUL in a text": (r'{"question": "a\u0000b", "answer": 1}', "Column 'question' holds a NUL"),
    "no answer": ('{"question": "a"}', "Column 'answer' is empty"),
    "not a number": ('{"question": "a", "answer": NaN}', "Column 'answer' is empty"),
    "infinite": ('{"question": "a", "answer": 1e999}', "Column 'answer' holds infinity"),
}


@pytest.mark.parametrize(("line", "said"), LINES.values(), ids=LINES.keys())
def test_a_bad_line_of_jsonl_is_named_and_the_others_are_read(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    for lines in ([line, json.dumps(GOOD)], [json.dumps(GOOD), line]):
        file.write_text("\n".join(lines), encoding="utf-8")
        data = Dataset(Dataset.Config(path=str(file), splits={"train": "train"}, columns={"images": None}))
        bad = lines.index(line)
        assert data.example(1 - bad).answer == "1"
        with pytest.raises(DataError) as refused:
            data.example(bad)
        assert said in refused.value.reason
        assert f"ow {bad} of {file}" in refused.value.reason
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("content", ["null", "3\n4\n", "null\n\nnull\n", "\0" * 100])
def test_a_file_of_no_objects_is_refused_and_nothing_dies(tmp_path: Path, content: str) -> None:
    for name in ("rows.jsonl", "rows.json"):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="has to be readable"):
            outcomes(tmp_path / name)


def test_a_line_of_100_megabytes_costs_itself_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("w") as opened:
        opened.write(json.dumps(GOOD) + '\n{"question": "')
        for _ in range(100):
            opened.write("x" * 2**20)
        opened.write(f'", "answer": 1}}\n{json.dumps(GOOD)}\n')
    start = time.monotonic()
    found = outcomes(file)
    assert time.monotonic() - start < 5
    assert [found[0], found[2]] == [("How many?", "1")] * 2
    assert f"and {MAX_ROW} are read" in found[1]


def test_a_large_jsonl_file_is_read_as_a_small_one(tmp_path: Path) -> None:
    """Beyond ten megabytes, where readers that infer types from a first chunk have decided."""
    file = tmp_path / "rows.jsonl"
    row = {"question": "q" * 12_000, "answer": 1, "extra": 1}
    late = [{"question": "a", "answer": "one"}, {"question": "b", "answer": "2021-05-01", "extra": {"deep": []}}]
    file.write_text("\n".join(map(json.dumps, [*[row] * 1000, *late])))
    assert file.stat().st_size > 10 * 2**20
    assert outcomes(file)[-3:] == [("q" * 12_000, "1"), ("a", "one"), ("b", "2021-05-01")]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
@pytest.mark.parametrize(
    "answers",
    [
        ["2021-05-01", "2021-05-02"],
        ["2021-05-01T10:00:00Z", "2021-05-01 10:00:00"],
        ["10:30", "1.50", "007", "1e5", "true", "null"],
    ],
)
def test_answers_are_the_texts_as_written(tmp_path: Path, kind: str, answers: list[str]) -> None:
    rows = [{"question": "When?", "answer": answer} for answer in answers]
    text = {
        "jsonl": "\n".join(map(json.dumps, rows)),
        "json": json.dumps(rows),
        "csv": "\n".join(["question,answer", *(f"When?,{answer}" for answer in answers)]),
    }
    (tmp_path / f"rows.{kind}").write_text("\ufeff" + text[kind], encoding="utf-8")
    assert outcomes(tmp_path / f"rows.{kind}") == [("When?", answer) for answer in answers]


def test_numbers_of_any_length(tmp_path: Path) -> None:
    digits = "1" * 5000
    for name, text in (("a.jsonl", '{"question": "a", "answer": %s}'), ("a.json", '[{"question": "a", "answer": %s}]')):
        (tmp_path / name).write_text(text % digits)
        assert outcomes(tmp_path / name) == [("a", digits)]


def test_the_forms_of_a_json_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    for text in (json.dumps([GOOD, GOOD], indent=2), f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n"):
        file.write_text(text)
        assert outcomes(file) == [("How many?", "1")] * 2
    file.write_text(json.dumps([GOOD, None, 3]))
    assert outcomes(file) == [("How many?", "1"), "is null, no JSON object.", "is a number, no JSON object."]
    file.write_text(json.dumps(GOOD, indent=2))
    assert outcomes(file) == [("How many?", "1")]


def test_a_column_that_only_a_later_row_has(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"answer": 1}\n{"question": "a", "answer": 2}\n')
    assert outcomes(tmp_path / "rows.jsonl") == ["Column 'question' is empty.", ("a", "2")]


def test_ids_of_any_type(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [GOOD | {"n": n} for n in ([1, 2], {"a": 1}, None, 1, "x")]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = outcomes(file, id="n")
    assert found[3:] == [("How many?", "1")] * 2
    file.write_text("\n".join(json.dumps(GOOD | {"n": n}) for n in (1, "1")))
    with pytest.raises(DataError, match="Ids are unique"):
        outcomes(file, id="n")


ARROW = {
    "date": (pyarrow.array([datetime.date(2021, 5, 1)]), "2021-05-01"),
    "midnight": (pyarrow.array([datetime.datetime(2021, 5, 1)]), "2021-05-01"),
    "time of day": (pyarrow.array([datetime.datetime(2021, 5, 1, 10, 30)]), "2021-05-01 10:30:00"),
    "time": (pyarrow.array([datetime.time(10, 30)]), "10:30:00"),
    "decimal": (pyarrow.array([Decimal("1.50")]), "1.50"),
    "large text": (pyarrow.array(["x"], pyarrow.large_string()), "x"),
    "text view": (pyarrow.array(["x"], pyarrow.string_view()), "x"),
    "text as bytes": (pyarrow.array(["größer".encode()]), "größer"),
    "dictionary": (pyarrow.array(["x"]).dictionary_encode(), "x"),
    "half": (pyarrow.array([1.5], pyarrow.float16()), "1.5"),
    "list": (pyarrow.array([["x"]]), "x"),
}


@pytest.mark.parametrize(("cells", "right"), ARROW.values(), ids=ARROW.keys())
def test_columns_of_any_type_in_parquet(tmp_path: Path, cells: Any, right: str) -> None:
    table = pyarrow.table({"question": ["a"], "answer": cells})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert outcomes(tmp_path / "rows.parquet") == [("a", right)]


@pytest.mark.parametrize(
    "cells",
    [
        pyarrow.array([{"a": [1]}, None]),
        pyarrow.array([[1, 2], None]),
        pyarrow.array([b"\xff", None]),
        pyarrow.array([10**7, None], pyarrow.date32()),
        pyarrow.array([1, None], pyarrow.timestamp("us", tz="Nowhere/City")),
        pyarrow.array([5, None], pyarrow.duration("s")),
        pyarrow.nulls(2),
    ],
    ids=lambda cells: str(cells.type),
)
def test_cells_that_are_no_text_are_named(tmp_path: Path, cells: Any) -> None:
    table = pyarrow.table({"question": ["a", "b", "c"], "answer": pyarrow.chunked_array([cells, cells[:1]])})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    found = outcomes(tmp_path / "rows.parquet")
    assert len(found) == 3
    assert all(isinstance(one, str) for one in found)


def test_a_local_file_is_read_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dataset` counts its calls there, and waits for an answer where there is no network."""
    monkeypatch.setattr(datasets.load, "increase_load_count", lambda name: pytest.fail("the hub was asked"))
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a"], "answer": ["1"]}), tmp_path / "rows.parquet")
    assert outcomes(tmp_path / "rows.parquet") == [("a", "1")]


def test_what_is_not_needed_is_not_decoded(tmp_path: Path) -> None:
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"), "sound": datasets.Audio()}
    )
    sound = pyarrow.array([{"bytes": b"no sound", "path": None}])
    table = pyarrow.table({"question": ["a"], "answer": ["1"], "sound": sound})
    metadata = {b"huggingface": json.dumps({"info": {"features": features.to_dict()}}).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "rows.parquet")
    assert outcomes(tmp_path / "rows.parquet") == [("a", "1")]


def test_a_folder_is_not_searched_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "a" / "b" / "c" / "d").mkdir(parents=True)
    for place in ("a/near.csv", "a/b/c/d/deep.csv"):
        (home / place).write_text("question,answer\na,1\n")
    monkeypatch.setenv("HOME", str(home))
    for path in ("~", "~/a/b"):
        with pytest.raises(DataError) as refused:
            Dataset(Dataset.Config(path=path)).size()
        assert "deep.csv" not in str(refused.value)
        assert ("has a/near.csv" if path == "~" else "no folder in it does") in refused.value.reason
    assert Dataset.Config(path="~nobody-of-that-name/x.csv").path.endswith("/~nobody-of-that-name/x.csv")
