"""Reading a table's file with types of our own: nothing is decided from its first rows, and each row stands alone."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from saei.data.rows import ArrowRows, BadRow, Cells, Rows, TextRows
from saei.errors import DataError, shown

MAX_ROW = 16 * 2**20
"""Bytes that a line of a JSONL file may have: far above any text, below what parsing would exhaust memory with."""

MAX_DIGITS = 4000
"""Of a whole number; longer ones stay text."""

_END = "\x1e"
"""A line that is put behind the last one of a CSV file; a quotation mark that is never closed swallows it."""

_QUOTED = re.compile(r'"[^"]*"')
_MAGIC = b"PAR1"
"""The first and the last four bytes of a Parquet file."""

_AS_UTF8 = "Save the file as UTF-8."
_CLOSE = "Close the quotation mark, or write one inside of a text twice."


def read_files(files: Sequence[Path], where: str) -> Rows:
    """Return the rows of files that are one table.

    Args:
        files: Of one kind; their endings say which.
        where: Names the table in errors.

    Raises:
        DataError: If they cannot be read at all. A row that cannot be says so when it is asked for.
    """
    return READERS[files[0].suffix](files, where)


def unreadable_error(where: str, reason: str, remedy: str) -> DataError:
    """Return the error of a data set that cannot be read."""
    reason = reason.rstrip(".")
    return DataError("The data set has to be readable.", reason=f"{where}: {reason}.", remedy=remedy)


def root_cause(error: BaseException) -> str:
    """Return what went wrong first; ``datasets`` wraps it in an error that only says that there was one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {shown(str(error), 300)}"


def _texts(
    read: Callable[[bytes, str], tuple[list[Cells | BadRow], list[str] | None]],
) -> Callable[[Sequence[Path], str], Rows]:
    """Return a reader of several text files of a reader of one's content."""

    def read_all(files: Sequence[Path], where: str) -> Rows:
        rows: list[Cells | BadRow] = []
        columns: list[str] = []
        digest = hashlib.sha256()
        for file in files:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise unreadable_error(str(file), root_cause(error), "Check the file and who may read it.") from error
            _check_text(content, str(file))
            digest.update(hashlib.sha256(content).digest())
            more, names = read(content.removeprefix(b"\xef\xbb\xbf"), str(file))
            rows += more
            columns += names or []
        return TextRows(rows, digest.hexdigest(), list(dict.fromkeys(columns)) or None)

    return read_all


def _check_text(content: bytes, where: str) -> None:
    """Check that a file is the text that its name promises.

    Raises:
        DataError: If it is something else altogether.
    """
    head = content[:512].lstrip().lower()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise unreadable_error(where, "it is UTF-16", _AS_UTF8)
    if head.startswith((b"<!doctype", b"<html")):
        raise unreadable_error(
            where, "it is a web page", "Fetch the file itself; such a page often says what went wrong."
        )
    _check_pointer(head, where)


def _check_pointer(head: bytes, where: str) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise unreadable_error(where, "it is a pointer of Git LFS, not the file", "Fetch the file with `git lfs pull`.")


def _csv(content: bytes, where: str) -> tuple[list[Cells | BadRow], list[str] | None]:
    """Return the rows and columns of a CSV file; every cell stays the text it is: ``007``, ``NA``, ``1.50``.

    Columns without a name, such as a row number or what is behind a comma that ends the heading, are left out.
    """
    lines = list(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if first == len(lines):
        return [], []
    bare = _QUOTED.sub("", lines[first])
    separator = max(",;\t", key=bare.count)  # spreadsheets write semicolons where the comma is a decimal sign
    records = _records(lines[first:], separator)
    heading = next(records, [""])
    if isinstance(heading, BadRow) or not _is_unicode(heading):
        reason = heading.reason if isinstance(heading, BadRow) else "is not UTF-8"
        raise unreadable_error(where, f"its heading {reason}", _AS_UTF8 if reason == "is not UTF-8" else _CLOSE)
    heading = [name.strip() for name in heading]
    named = [name for name in heading if name]
    if not named:
        raise unreadable_error(
            where, "its first line names no column", 'Write a heading, such as "image,question,answer".'
        )
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise unreadable_error(where, f"two columns are called '{shown(twice)}'", "Rename one of them.")
    return [_csv_row(fields, heading, separator) for fields in records], named


def _csv_row(fields: Sequence[str] | BadRow, heading: Sequence[str], separator: str) -> Cells | BadRow:
    if isinstance(fields, BadRow):
        return fields
    if not _is_unicode(fields):
        return BadRow("is not UTF-8", _AS_UTF8)
    names = len(heading)
    while names and not heading[names - 1]:
        names -= 1
    if any(field.strip() for field in fields[names:]):
        sign = {",": "a comma", ";": "a semicolon", "\t": "a tab"}[separator]
        return BadRow(
            f"has {len(fields)} fields, and the heading names {names}", f"Put a text with {sign} in quotation marks."
        )
    cells = [field.strip() for field in fields[:names]]
    cells += [""] * (names - len(cells))  # spreadsheets leave out empty cells at the end
    return {name: cell for name, cell in zip(heading, cells, strict=False) if name}


def _records(lines: Sequence[str], separator: str) -> Iterator[list[str] | BadRow]:
    """Return the fields of each record, which may go over several lines; after a damaged one, of its next line."""
    start = 0
    while start < len(lines):
        reader = csv.reader(chain(islice(lines, start, None), [_END]), delimiter=separator, skipinitialspace=True)
        begin = start
        while begin < len(lines):
            try:
                fields = next(reader)
            except csv.Error as error:
                yield BadRow(f"is no line of a CSV file ({error})", "Correct or remove it.")
                break
            if start + reader.line_num > len(lines):
                yield BadRow("has a quotation mark that is never closed", _CLOSE)
                break
            begin = start + reader.line_num
            if any(fields):
                yield fields
        else:
            return
        start = begin + 1


def _is_unicode(fields: Sequence[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_lines(content: bytes, where: str) -> tuple[list[Cells | BadRow], list[str] | None]:
    """Return the rows of a file with one JSON object per line; empty lines are none."""
    rows = [_json_row(line) for line in content.split(b"\n") if line.strip()]
    if rows and all(isinstance(row, BadRow) for row in rows):
        first = rows[0]
        assert isinstance(first, BadRow)
        raise unreadable_error(where, f"no line is a row; the first {first.reason}", first.remedy)
    return rows, None


def _json_row(line: bytes) -> Cells | BadRow:
    if len(line) > MAX_ROW:
        return BadRow(f"has {len(line)} bytes, and {MAX_ROW} are read", "Remove it, or shorten its longest text.")
    try:
        return _object(_parsed(line))
    except UnicodeDecodeError:
        return BadRow("is not UTF-8", _AS_UTF8)
    except (ValueError, RecursionError) as error:  # of the parser, too deep nesting and too long numbers included
        return BadRow(f"is no JSON ({shown(str(error), 100)})", "Write one object per line.")


def _object(value: object) -> Cells | BadRow:
    if isinstance(value, Mapping):
        return value
    return BadRow(f"is {_kind(value)}, no JSON object", 'Write it as {"question": …, "answer": …}.')


def _json(content: bytes, where: str) -> tuple[list[Cells | BadRow], list[str] | None]:
    """Return the rows of a JSON file: a list of objects, a single one, or one a line."""
    try:
        value = _parsed(content)
    except UnicodeDecodeError as error:
        raise unreadable_error(where, "it is not UTF-8", _AS_UTF8) from error
    except (ValueError, RecursionError) as error:
        lines = [line for line in content.split(b"\n") if line.strip()]
        if len(lines) > 1 and isinstance(_json_row(lines[0]), Mapping):
            return _json_lines(content, where)
        whole = "It has to be a list of objects, with a comma between them and a bracket behind the last."
        raise unreadable_error(where, f"it is no JSON ({shown(str(error), 100)})", whole) from error
    rows = [_object(row) for row in (value if isinstance(value, list) else [value])]
    if rows and all(isinstance(row, BadRow) for row in rows):
        raise unreadable_error(where, f"it holds {_kind(value)} and no object", "It has to be a list of objects.")
    return rows, None


def _parsed(content: bytes) -> Any:
    return json.loads(content.decode("utf-8"), parse_int=_integer)


def _integer(digits: str) -> int | str:
    """Return a whole number, as text where Python refuses to make a number of so many digits."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return kinds.get(type(value), "null")


def _parquet(files: Sequence[Path], where: str) -> Rows:
    import datasets

    for file in files:
        _check_parquet(file)
    datasets.disable_progress_bars()  # a local table takes a moment
    try:
        rows: Any = datasets.Dataset.from_parquet([str(file) for file in files])  # `load_dataset` asks the hub
    except Exception as error:  # Arrow, the file system and `datasets` raise errors of all kinds
        if "corresponds to no data" in str(error):  # how `datasets` says that a table has no rows
            return TextRows([], "", [])
        raise unreadable_error(
            where, root_cause(error), "Write it anew with columns of text, numbers and images, and leave others out."
        ) from error
    return ArrowRows(rows)


def _check_parquet(file: Path) -> None:
    """Check that a file is whole, since what is wrong with one that is not is told unclearly.

    Raises:
        DataError: If it is cut, or no Parquet file.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(512)
            opened.seek(max(0, file.stat().st_size - len(_MAGIC)))
            tail = opened.read()
    except OSError as error:
        raise unreadable_error(str(file), root_cause(error), "Check the file and who may read it.") from error
    _check_pointer(head, str(file))
    if not head.startswith(_MAGIC):
        raise unreadable_error(
            str(file), "it is not a Parquet file", "Rename it with its own ending, or write it as Parquet."
        )
    if tail != _MAGIC:
        raise unreadable_error(str(file), "its end is missing", "Copy or fetch it again: it was cut on the way.")


READERS: Mapping[str, Callable[[Sequence[Path], str], Rows]] = {
    ".jsonl": _texts(_json_lines),
    ".json": _texts(_json),
    ".csv": _texts(_csv),
    ".tsv": _texts(_csv),
    ".parquet": _parquet,
}
"""Who reads which local file, by its ending."""
