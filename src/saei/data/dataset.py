"""Examples from a local file, a local folder or a data set of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from saei.data.base import Split, Task
from saei.data.open_image import MAX_PIXELS, open_image
from saei.errors import DataError
from saei.strategy import Section
from saei.types import Example

LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""Which loader of ``datasets`` reads which local file."""

_IMAGE_MARKER = re.compile(r"<image\d*>")


class Columns(Section):
    """Which column holds what.

    Attributes:
        images: An image or a list of images: PIL images, encoded bytes, or paths relative to the data.
            None for text alone.
        question: The question; ``<image>`` markers in it are dropped.
        answer: The gold answer.
        id: A unique id; None for the row's number.
    """

    images: str | None = "images"
    question: str = "problem"
    answer: str = "answer"
    id: str | None = None


class Dataset(Task):
    """Rows of a table as examples, read through the ``datasets`` library.

    A row that cannot be used raises from ``example``; a table that cannot be used raises from ``size``.
    """

    class Config(Task.Config):
        """Fields of ``dataset``.

        Attributes:
            path: A local file (``.jsonl``, ``.json``, ``.csv``, ``.parquet``), a folder of them, or a hub id. In a
                folder the file named as the split is read, or the only one.
            name: The configuration of a hub data set.
            revision: The git revision of a hub data set; pin it for results that can be repeated.
            splits: Which split of the data stands for ``train`` and for ``eval``; a single local file
                has the one split ``train``.
            columns: Which column holds what.
            max_image_pixels: Larger images are refused before they are decoded.
        """

        type: Literal["dataset"] = "dataset"
        path: str
        name: str | None = None
        revision: str | None = None
        splits: Mapping[Split, str] = {"train": "train", "eval": "test"}
        columns: Columns = Columns()
        max_image_pixels: int = MAX_PIXELS

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tables: dict[Split, Any] = {}

    def size(self, split: Split = "train") -> int:
        """Return the number of rows of a split.

        Raises:
            DataError: If the data cannot be read, is empty or lacks a column.
        """
        return len(self._table(split))

    def example(self, index: int, split: Split = "train") -> Example:
        """Return row ``index``, counted on from the start again after the last.

        Raises:
            DataError: If the row has no answer or question, or an image that cannot be used.
        """
        table, columns = self._table(split), self.config.columns
        number = index % len(table)
        row = table[number]
        where = f"row {number} of split '{self.config.splits[split]}' of {self.config.path}"
        question = _IMAGE_MARKER.sub("", self._text(row[columns.question], columns.question, where)).strip()
        answer = self._text(row[columns.answer], columns.answer, where)
        images = row[columns.images] if columns.images else None
        items = images if isinstance(images, list) else [] if images is None else [images]
        opened = tuple(
            open_image(item, self._folder(), self.config.max_image_pixels, where=f"An image in {where}")
            for item in items
        )
        name = f"{self.config.splits[split]}-{number}" if columns.id is None else str(row[columns.id])
        return Example(name, question, answer, opened)

    def _text(self, value: object, column: str, where: str) -> str:
        text = "" if value is None else str(value).strip()
        if not text:
            raise DataError(
                "Every row needs a question and an answer.",
                reason=f"Column '{column}' is empty in {where}.",
                remedy="Fill it in or remove the row.",
            )
        return text

    def _folder(self) -> Path | None:
        """Return the folder that image paths are relative to, None for hub data."""
        path = Path(self.config.path).expanduser()
        return (path if path.is_dir() else path.parent) if path.exists() else None

    def _table(self, split: Split) -> Any:
        if split not in self._tables:
            self._tables[split] = self._checked(self._load(split), split)
        return self._tables[split]

    def _checked(self, table: Any, split: Split) -> Any:
        from datasets import Image

        for role, column in self.config.columns:
            if column is not None and column not in table.column_names:
                raise DataError(
                    f"`columns.{role}` has to name a column of the data.",
                    reason=f"{self.config.path} has no '{column}'; it has {', '.join(table.column_names)}.",
                    remedy=f"Set columns.{role} to one of these"
                    + (", or to null." if role in ("images", "id") else "."),
                )
        column = self.config.columns.images
        if column is not None:  # decoding is ours: it is guarded against enormous images
            feature = table.features[column]
            if isinstance(feature, Image):
                table = table.cast_column(column, Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), Image):
                table = table.cast_column(column, type(feature)(Image(decode=False)))
        return table

    def _empty(self, split: Split) -> DataError:
        return DataError(
            "A data set needs at least one row.",
            reason=f"Split '{self.config.splits[split]}' of {self.config.path} is empty.",
            remedy="Check the file, or `splits`.",
        )

    def _load(self, split: Split) -> Any:
        import datasets

        path = Path(self.config.path).expanduser()
        wanted = self.config.splits.get(split)
        if wanted is None:
            raise DataError(
                f"The '{split}' split has to be mapped to one of the data's.",
                reason=f"splits of {self.config.path} has no '{split}'.",
                remedy="Add it to `splits`.",
            )
        if not path.exists() and (
            path.suffix in LOADERS or path.is_absolute() or self.config.path.startswith((".", "~"))
        ):
            raise DataError(
                "The data set has to be readable.",
                reason=f"There is no {path}.",
                remedy="Correct the path; relative ones start at the folder that the command is run in.",
            )
        file = _table_file(path, wanted)
        if file and file.stat().st_size == 0:  # which `datasets` answers with a StopIteration
            raise self._empty(split)
        try:
            if file:
                if file.suffix not in LOADERS:
                    raise ValueError(f"a {file.suffix or 'nameless'} file is none of {', '.join(LOADERS)}")
                datasets.disable_progress_bars()  # a local table takes a moment
                return datasets.load_dataset(LOADERS[file.suffix], data_files=str(file), split="train")
            if path.is_dir():
                return datasets.load_dataset(str(path), split=wanted)
            return datasets.load_dataset(
                self.config.path, self.config.name, revision=self.config.revision, split=wanted
            )
        except Exception as error:
            if "corresponds to no data" in str(error):  # how `datasets` says that a table has no rows
                raise self._empty(split) from error
            raise DataError(
                "The data set has to be readable.",
                reason=f"{self.config.path}: {type(error).__name__}: {error}.",
                remedy="Give a .jsonl, .json, .csv or .parquet file, a folder of them, or a hub id; check `splits`.",
            ) from error


def _table_file(path: Path, split: str) -> Path | None:
    """Return the file itself, or a folder's table: the one named as the split, else its only one beside images.

    Left to itself, ``datasets`` takes a folder for a collection of images as soon as it has more images than tables.
    """
    if path.is_file():
        return path
    tables = sorted(file for file in path.glob("*") if file.suffix in LOADERS) if path.is_dir() else []
    named = [file for file in tables if file.stem == split]
    return named[0] if named else tables[0] if len(tables) == 1 else None
