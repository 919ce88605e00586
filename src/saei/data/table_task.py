"""The task whose examples are rows of a table; what a row means is left to the classes that derive from it."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from saei.config.strategy import StrategyConfig
from saei.data.base import Split, Task
from saei.data.open_image import MAX_PIXELS, open_image
from saei.data.photos import hold_out, photo_keys
from saei.data.tables import Source, Table, looks_local, read_table
from saei.errors import DataError
from saei.types import Example


@dataclass(frozen=True, eq=False, slots=True)
class TableExample:
    """What a row says, before its images are opened.

    Attributes:
        question: As ``Example.question``.
        answer: The gold answer as text.
        images: PIL images, encoded bytes, paths, or what ``datasets`` gives for an undecoded image; in the order of
            the prompt.
        id: Unique within the split; None for the row's number.
        meta: For ``Example.meta``.
    """

    question: str
    answer: str
    images: Sequence[object] = ()
    id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


class TableTask(Task, ABC):
    """Rows of a table as examples.

    A row that cannot be used raises from ``example``; a table that cannot be used raises from ``size``. To add one:
    derive, nest a ``Config``, implement ``check`` and ``parse_row``.
    """

    class Config(Task.Config):
        """Fields of every task with a table.

        Attributes:
            path: A local file (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``), a folder with one, or a hub
                id. Local paths are made absolute, so that a resumed run finds them.
            name: The configuration of a hub data set.
            revision: The git revision of a hub data set; pin it for results that can be repeated.
            splits: Which split of the data stands for ``train`` and for ``eval``; in a folder, the table called so.
            held_out: Share of the training rows that is kept for evaluation and not trained on, where the data has
                no split for it; 0 refuses such data.
            limit: Take only the first rows of each split; of a hub data set only these are fetched.
            max_image_pixels: Larger images are refused before they are decoded.
        """

        path: str = Field(min_length=1)
        name: str | None = Field(default=None, min_length=1)
        revision: str | None = Field(default=None, min_length=1)
        splits: Mapping[Split, str] = {"train": "train", "eval": "test"}
        held_out: float = Field(default=0.2, ge=0.0, lt=1.0)
        limit: int | None = Field(default=None, ge=1, le=10**9)
        max_image_pixels: int = Field(default=MAX_PIXELS, ge=1, le=2**31)

        @field_validator("path")
        @classmethod
        def _absolute(cls, path: str) -> str:
            local = os.path.expanduser(path)
            return os.path.abspath(local) if os.path.exists(local) or looks_local(path) else path

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._tables: dict[Split, Table] = {}
        self._notes: dict[str, None] = {}
        self._revision = self.config.revision

    @abstractmethod
    def check(self, table: Table) -> str | None:
        """Return what the user should know about a table, if anything.

        Raises:
            DataError: If the table lacks what every row needs.
        """

    @abstractmethod
    def parse_row(self, row: Mapping[str, Any], table: Table, where: str) -> TableExample:
        """Return what a row says.

        Args:
            row: Cells by column.
            table: The table that the row is of.
            where: Names the row in errors.

        Raises:
            DataError: If the row cannot be used.
        """

    def splits(self) -> Sequence[Split]:
        """Return those of the two splits that the data has something for."""
        both: tuple[Split, ...] = ("train", "eval")
        return [split for split in both if self.source_split(split) is not None]

    def source_split(self, split: Split) -> str | None:
        """Return the name of a split in the data, None if the data has nothing for it."""
        return self.config.splits.get(split)

    def source(self, split: Split) -> str:
        """Return which file, or which split of which data set, was read.

        Raises:
            DataError: If it cannot be.
        """
        return self._table(split).where

    def photo_keys(self, table: Table) -> Sequence[Hashable]:
        """Return one key per row; rows of one key are never divided between training and evaluation."""
        return photo_keys((self._images(table, number) for number in table.numbers), table.roots)

    def _images(self, table: Table, number: int) -> Sequence[object]:
        """Return the images of a row as its cells have them, none of a row that cannot be used."""
        try:
            return self.parse_row(table.row(number), table, table.name(number)).images
        except DataError:
            return ()

    def size(self, split: Split = "train") -> int:
        """Return the number of rows of a split.

        Raises:
            DataError: If the data cannot be read, is empty or lacks a column.
        """
        return len(self._table(split).numbers)

    def example(self, index: int, split: Split = "train") -> Example:
        """Return row ``index`` of a split, counted on from the start again after the last.

        Raises:
            DataError: If the row has no answer or question, or an image that cannot be used.
        """
        table = self._table(split)
        number = table.numbers[index % len(table.numbers)]
        where = table.name(number)
        item = self.parse_row(table.row(number), table, where)
        images = tuple(
            open_image(image, table.roots, self.config.max_image_pixels, where=f"An image in {where}")
            for image in item.images
        )
        return Example(item.id or f"{table.split}-{number}", item.question, item.answer, images, item.meta)

    def pinned(self) -> StrategyConfig:
        """Return the config with the revision that the hub's data was read at."""
        return self.config.model_copy(update={"revision": self._revision})

    def fingerprint(self, split: Split = "train") -> str:
        """Return a text that changes with the config, the table, and the image files that it names."""
        table = self._table(split)
        digest = hashlib.sha256(f"{self.pinned().model_dump_json()} {table.rows.fingerprint}".encode())
        for number in table.numbers:
            images = self._images(table, number)
            paths = [image.get("path") if isinstance(image, Mapping) else image for image in images]
            for path in (path for path in paths if isinstance(path, str)):
                digest.update(f"{path} {_states(path, table.roots)}".encode(errors="backslashreplace"))
        return digest.hexdigest()

    def notes(self) -> Sequence[str]:
        """Return where columns and evaluation rows were found."""
        return list(self._notes)

    def _table(self, split: Split) -> Table:
        if split not in self._tables:
            self._load(split)
        if split not in self._tables:
            raise DataError(
                "Evaluation needs rows that are not trained on.",
                reason=f"{self.config.path} has no table for it, and "
                + ("task.held_out is 0." if self.config.held_out == 0 else "its photos cannot be divided."),
                remedy="Add a second table called test, or set task.held_out.",
            )
        return self._tables[split]

    def _load(self, split: Split) -> None:
        """Read a split; what is trained on depends on whether there is another table to evaluate on."""
        self._name_in_data(split)
        if self.source_split("eval") is not None and "eval" not in self._tables:
            eval_table = self._read("eval")
            if eval_table is None:
                self._hold_out()
                return
            self._tables["eval"] = eval_table
        if split == "train":
            self._tables["train"] = self._training_table()

    def _hold_out(self) -> None:
        """Divide the training rows, since the data has none for evaluation."""
        train = self._training_table()
        config = self.config
        eval_rows = hold_out(self.photo_keys(train), config.held_out, config.seed) if config.held_out else []
        train_rows = sorted(set(train.numbers) - set(eval_rows))
        self._tables["train"] = replace(train, numbers=train_rows)
        if eval_rows:
            self._tables["eval"] = replace(train, numbers=eval_rows)
            self._notes[
                f"No table for evaluation: {len(eval_rows)} of the {len(train.numbers)} rows of {train.where} are held "
                f"out for it and not trained on (task.held_out={config.held_out:g})."
            ] = None

    def _training_table(self) -> Table:
        table = self._read("train")
        assert table is not None  # only evaluation may have none
        return table

    def _name_in_data(self, split: Split) -> str:
        name = self.source_split(split)
        if name is None:
            raise DataError(
                f"The split '{split}' must be mapped to a split of the data.",
                reason=f"`splits` of {self.config.path} has no '{split}'.",
                remedy="Add it to `splits`.",
            )
        return name

    def _read(self, split: Split) -> Table | None:
        config = self.config
        source = Source(config.path, config.name, self._revision)
        optional = split == "eval" and self.source_split("train") is not None
        table = read_table(source, self._name_in_data(split), optional=optional, limit=config.limit)
        if table is None:
            return None
        self._revision = table.revision or self._revision  # the other split is read at the same one
        note = self.check(table)
        if note:
            self._notes[note] = None
        return table


def _states(path: str, roots: Sequence[Path]) -> list[tuple[int, int]]:
    """Return size and modification time of each file that a path may mean; ``os.path`` also accepts malformed ones."""
    states = [os.stat(file) for file in (os.path.join(root, path) for root in roots) if os.path.isfile(file)]
    return [(state.st_size, state.st_mtime_ns) for state in states]
