"""Finding and reading one split of a data set as a table: in a local file, in a local folder or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from saei.data.hub import hub_rows
from saei.data.readers import READERS, read_files, root_cause, unreadable_error
from saei.data.rows import ArrowRows, Cells, Rows
from saei.errors import DataError

EVALUATION = ("test", "validation", "valid", "val", "eval", "dev")
"""Names that a folder's table for evaluation may have, in this order, besides the one asked for."""

USUAL = "Give a .jsonl, .json, .csv or .parquet file, a folder with one, or a hub id; check task.splits."
ENTRIES = 10_000
"""Files that are looked at to say which tables a folder has; the folder may be somebody's home."""

_SHARD = re.compile(r"(.+)-\d+-of-\d+(?:-[0-9a-f]+)?")
"""The name of one of several files that are one table, as the hub has them."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set lies.

    Attributes:
        path: A local file, a local folder or a hub id.
        name: The configuration of a hub data set.
        revision: The git revision of a hub data set.
    """

    path: str
    name: str | None = None
    revision: str | None = None

    @property
    def local(self) -> Path | None:
        """The file or folder, None if the data is on the hub."""
        path = Path(os.path.expanduser(self.path))
        return path if os.path.exists(path) or looks_local(self.path) else None


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """The rows of one split.

    Attributes:
        rows: All rows that were read.
        split: The name of the split in the data.
        where: Names the table in messages.
        roots: Folders that image paths have to stay in; relative ones start at the first that has the file.
        numbers: Which of the rows belong to the split.
        revision: The commit of the hub's data set, None for local data.
    """

    rows: Rows
    split: str
    where: str
    roots: tuple[Path, ...]
    numbers: Sequence[int]
    revision: str | None = None

    def row(self, number: int) -> Cells:
        """Return a row's cells by column, None where it has none.

        Raises:
            DataError: If the row cannot be read.
        """
        return self.rows.row(number, self.name(number))

    def name(self, number: int) -> str:
        """Return what a row is called in messages."""
        return f"row {number} of {self.where}"


def looks_local(path: str) -> bool:
    """Return whether a path can only be meant as a local one, whether it exists or not."""
    return Path(path).suffix in READERS or path.startswith((".", "~", "/")) or path.count("/") > 1


def read_table(source: Source, split: str, *, optional: bool = False, limit: int | None = None) -> Table | None:
    """Return a split of a data set.

    Args:
        source: Where the data lies.
        split: The name of the split in the data.
        optional: Whether the data may do without it, as rows for evaluation can be held out: None is returned then.
            One table alone is never the optional one.
        limit: Only the first rows.

    Raises:
        DataError: If the data cannot be read or has no rows.
    """
    path = source.local
    table = _on_hub(source, split, optional, limit) if path is None else _in_files(source, path, split, optional)
    return None if table is None else replace(table, numbers=table.numbers[:limit])


def _on_hub(source: Source, split: str, optional: bool, limit: int | None) -> Table | None:
    where = f"split '{split}' of {source.path}"
    try:
        rows, roots, revision = hub_rows(source.path, source.name, source.revision, split, limit)
    except Exception as error:  # `datasets`, the hub and the network raise errors of all kinds
        if optional and "Unknown split" in str(error):
            return None
        missing = f"{root_cause(error)}. There is no {Path(source.path).absolute()} either"
        raise unreadable_error(where, missing, _hub_remedy(source, str(error))) from error
    return replace(_checked(ArrowRows(rows), split, where, roots), revision=revision)


def _in_files(source: Source, path: Path, split: str, optional: bool) -> Table | None:
    if not os.path.exists(path):
        raise DataError(
            "The data set has to be readable.",
            reason=f"There is no {path}.",
            remedy="Correct the path; relative ones start at the folder that the command is run in.",
        )
    if path.is_file():
        return None if optional else _read([path], path.parent, split)
    folder = path / source.name if source.name is not None and (path / source.name).is_dir() else path
    files = _evaluation_files(folder, split) if optional else _training_files(folder, split)
    return _read(files, path, split) if files else None


def _evaluation_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split for evaluation; empty if there are none."""
    return next(filter(None, (_named(folder, name) for name in (split, *EVALUATION))), [])


def _training_files(folder: Path, split: str) -> list[Path]:
    files = _named(folder, split) or _main([file for file in _tables(folder) if _split_of(file) not in EVALUATION])
    if files:
        return files
    entries = islice(chain(folder.glob("*"), folder.glob("*/*")), ENTRIES)
    tables = [str(file.relative_to(folder)) for file in sorted(entries) if file.suffix in READERS]
    if not tables:
        raise DataError(
            "A folder of images needs a table with their questions and answers.",
            reason=f"{folder} holds no {', '.join(READERS)} file, and no folder in it does.",
            remedy='Put one beside the images, such as metadata.csv with the columns "image,question,answer".',
        )
    named = ", ".join(tables[:8]) + (" and more" if len(tables) > 8 else "")
    raise DataError(
        "Which table is meant has to be clear.",
        reason=f"{folder} has {named}; none is called '{split}'.",
        remedy=f"Rename it to {split} with its ending, name it with --set task.splits.train=NAME, or give the file.",
    )


def _tables(folder: Path) -> list[Path]:
    files = folder.glob("*") if folder.is_dir() else []
    return sorted(file for file in files if file.suffix in READERS and file.is_file())


def _named(folder: Path, split: str) -> list[Path]:
    """Return the files called as the split, here or in the hub's folder for data, or those of a folder called so."""
    beside = [file for place in (folder, folder / "data") for file in _tables(place) if _split_of(file) == split]
    return beside or _main(_tables(folder / split))


def _split_of(file: Path) -> str:
    shard = _SHARD.fullmatch(file.stem)
    return shard[1] if shard else file.stem


def _main(tables: list[Path]) -> list[Path]:
    """Return the only table, or the one called metadata; empty if that is not clear."""
    called = [file for file in tables if file.stem == "metadata"]
    return called[:1] or (tables if len({_split_of(file) for file in tables}) == 1 else [])


def _read(files: list[Path], folder: Path, split: str) -> Table:
    first = files[0]
    where = str(first) if len(files) == 1 else str(first.with_name(f"{_split_of(first)}-*{first.suffix}"))
    if first.suffix not in READERS:
        raise unreadable_error(where, f"a {first.suffix or 'nameless'} file is none of {', '.join(READERS)}", USUAL)
    return _checked(read_files(files, where), split, where, tuple(dict.fromkeys((first.parent, folder))))


def _checked(rows: Rows, split: str, where: str, roots: tuple[Path, ...]) -> Table:
    if len(rows) == 0:
        raise _empty(where)
    return Table(rows, split, where, roots, range(len(rows)))


def _empty(where: str) -> DataError:
    return DataError(
        "A data set needs at least one row.", reason=f"{where} is empty.", remedy="Check the file, or task.splits."
    )


def _hub_remedy(source: Source, said: str) -> str:
    """Return what to do about a hub's data set."""
    if source.revision is not None and "revision" in said.casefold():
        return "Correct task.revision, a commit, branch or tag of the data set, or leave it out for the newest state."
    return USUAL
