"""Reading one split of a data set as a table: from a local file, a local folder or the hub."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.errors import DataError

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""Which reader of ``datasets`` takes which local file."""

EVALUATION = ("test", "validation", "valid", "val", "eval", "dev")
"""Names that a folder's table for evaluation may have, in this order, besides the one asked for."""

EXAMPLE = 'such as metadata.csv with the columns "image,question,answer"'


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
        path = Path(self.path).expanduser()
        return path if path.exists() or looks_local(self.path) else None


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """The rows of one split.

    Attributes:
        rows: A ``datasets.Dataset``, its images not decoded.
        split: The name of the split in the data.
        where: Names the table in messages.
        roots: Folders that image paths have to stay in; relative ones start at the first that has the file.
        numbers: Which of the rows belong to the split.
    """

    rows: Any
    split: str
    where: str
    roots: tuple[Path, ...]
    numbers: Sequence[int]


def looks_local(path: str) -> bool:
    """Return whether a path can only be meant as a local one, whether it exists or not."""
    return Path(path).suffix in READERS or path.startswith((".", "~", "/")) or path.count("/") > 1


def read_table(source: Source, split: str, *, evaluation: bool) -> Table | None:
    """Return a split of a data set, None if the data has no table for evaluation.

    Args:
        source: Where the data lies.
        split: The name of the split in the data.
        evaluation: Whether the split is for evaluation; a single local table is for training.

    Raises:
        DataError: If the data cannot be read or has no rows.
    """
    path = source.local
    if path is None:
        return _read(source, split, evaluation=evaluation)
    if not path.exists():
        raise DataError(
            "The data set has to be readable.",
            reason=f"There is no {path}.",
            remedy="Correct the path; relative ones start at the folder that the command is run in.",
        )
    if path.is_file():
        return None if evaluation else _read_file(path, path.parent, split)
    if not any(file.suffix in READERS for file in path.rglob("*")):
        raise DataError(
            "A folder of images needs a table with their questions and answers.",
            reason=f"{path} holds no {', '.join(READERS)} file.",
            remedy=f"Put one beside the images, {EXAMPLE}.",
        )
    if not _tables(path) and not any(_tables(folder) for folder in path.iterdir() if _is_split(folder.name)):
        return _read(source, split, evaluation=evaluation)  # a copy of a hub data set, laid out in another way
    file = _evaluation_file(path, split) if evaluation else _training_file(path, split)
    return None if file is None else _read_file(file, path, split)


def _is_split(name: str) -> bool:
    return name in ("train", *EVALUATION)


def _tables(folder: Path) -> list[Path]:
    found = folder.glob("*") if folder.is_dir() else []
    return sorted(file for file in found if file.suffix in READERS and file.is_file())


def _named(folder: Path, split: str) -> Path | None:
    """Return the table called as the split, or the one in a sub-folder called so."""
    beside = [file for file in _tables(folder) if file.stem == split]
    inside = _tables(folder / split)
    return beside[0] if beside else _main(inside)


def _main(tables: list[Path]) -> Path | None:
    """Return the only table, or the one called metadata."""
    called = [file for file in tables if file.stem == "metadata"]
    return called[0] if called else tables[0] if len(tables) == 1 else None


def _training_file(folder: Path, split: str) -> Path:
    others = [file for file in _tables(folder) if file.stem not in EVALUATION]
    found = _named(folder, split) or _main(others)
    if found is None:
        raise DataError(
            "A folder has one table to train on.",
            reason=f"{folder} has {', '.join(file.name for file in _tables(folder))}; none is called '{split}'.",
            remedy=f"Rename one to {split}.csv (or .jsonl, .parquet), name it with --set task.splits.train=NAME, "
            "or give the file itself.",
        )
    return found


def _evaluation_file(folder: Path, split: str) -> Path | None:
    found = (_named(folder, name) for name in (split, *EVALUATION))
    return next((file for file in found if file is not None), None)


def _read_file(file: Path, folder: Path, split: str) -> Table:
    import datasets

    where = str(file)
    if file.suffix not in READERS:
        raise _unreadable(where, f"a {file.suffix or 'nameless'} file is none of {', '.join(READERS)}")
    if file.stat().st_size == 0:  # which `datasets` answers with a StopIteration
        raise _empty(where)
    datasets.disable_progress_bars()  # a local table takes a moment
    try:
        options = _csv_options(file) if READERS[file.suffix] == "csv" else {}
        rows = datasets.load_dataset(READERS[file.suffix], data_files=str(file), split="train", **options)
    except Exception as error:
        if "corresponds to no data" in str(error):  # how `datasets` says that a table has no rows
            raise _empty(where) from error
        raise _unreadable(where, f"{type(error).__name__}: {error}") from error
    return _undecoded(rows, split, where, tuple(dict.fromkeys((file.parent, folder))))


def _read(source: Source, split: str, *, evaluation: bool) -> Table | None:
    import datasets
    from huggingface_hub import constants

    where = f"split '{split}' of {source.path}"
    roots: tuple[Path, ...] = (Path(constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))
    try:
        if source.local:
            roots = (source.local,)
            rows = datasets.load_dataset(str(source.local), split=split)
        else:
            rows = datasets.load_dataset(source.path, source.name, revision=source.revision, split=split)
    except Exception as error:
        if evaluation and "Unknown split" in str(error):
            return None
        if "corresponds to no data" in str(error):
            raise _empty(where) from error
        raise _unreadable(where, f"{type(error).__name__}: {error}") from error
    return _undecoded(rows, split, where, roots)


def _csv_options(file: Path) -> dict[str, Any]:
    """Return how to read a CSV file so that every cell stays the text it is: ``007``, ``NA`` and ``1.50`` included."""
    import datasets

    with file.open(encoding="utf-8-sig", newline="") as opened:
        heading = opened.readline()
    separator = max(",;\t", key=heading.count)  # spreadsheets write semicolons where the comma is a decimal sign
    names = next(csv.reader([heading], delimiter=separator), [])
    features = datasets.Features({name: datasets.Value("string") for name in names})
    return {"sep": separator, "features": features, "keep_default_na": False}


def _undecoded(rows: Any, split: str, where: str, roots: tuple[Path, ...]) -> Table:
    """Return the table with images as bytes or paths: decoding is ours, guarded against enormous images."""
    from datasets import Image

    if len(rows) == 0:
        raise _empty(where)
    for column, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            rows = rows.cast_column(column, type(feature)(Image(decode=False)))
    return Table(rows, split, where, roots, range(len(rows)))


def _empty(where: str) -> DataError:
    return DataError(
        "A data set needs at least one row.", reason=f"{where} is empty.", remedy="Check the file, or task.splits."
    )


def _unreadable(where: str, reason: str) -> DataError:
    return DataError(
        "The data set has to be readable.",
        reason=f"{where}: {reason}.",
        remedy="Give a .jsonl, .json, .csv or .parquet file, a folder with one, or a hub id; check task.splits.",
    )
