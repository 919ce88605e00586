"""The rows of a table, each read by itself: one that is damaged says so when it is asked for, and shifts no other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from saei.errors import DataError, shown


@dataclass(frozen=True, slots=True)
class BadRow:
    """Why a row cannot be read.

    Attributes:
        reason: What is wrong with it; its subject is the row.
        remedy: What to do about it.
    """

    reason: str
    remedy: str


Cells: TypeAlias = Mapping[str, Any]
"""The content of a row, by column."""


class Rows(ABC):
    """The rows of one table.

    Attributes:
        columns: The names of its columns.
        fingerprint: A text that changes whenever a row does.
    """

    columns: Sequence[str]
    fingerprint: str

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows, bad ones included."""

    @abstractmethod
    def read(self, number: int) -> Cells | BadRow:
        """Return a row with all columns, None where it has no cell, or why it cannot be read."""

    def row(self, number: int, where: str) -> Cells:
        """Return a row with all columns, None where it has no cell.

        Args:
            number: Which row.
            where: Names the row in errors.

        Raises:
            DataError: If the row cannot be read.
        """
        cells = self.read(number)
        if isinstance(cells, BadRow):
            raise DataError(
                "Every row of a table has to be readable.",
                reason=f"{where[:1].upper()}{where[1:]} {cells.reason}.",
                remedy=cells.remedy,
            )
        return cells

    def column(self, name: str) -> Iterator[Any]:
        """Return the cells of a column; that of a bad row is None."""
        for number in range(len(self)):
            cells = self.read(number)
            yield None if isinstance(cells, BadRow) else cells[name]


class TextRows(Rows):
    """Rows of a text file, held in memory.

    Args:
        rows: What each says, or why it cannot be read.
        fingerprint: A text that changes whenever the file does.
        columns: The names of the columns; None for those that any row has, in the order of their first appearance.
    """

    def __init__(self, rows: Sequence[Cells | BadRow], fingerprint: str, columns: Sequence[str] | None = None) -> None:
        self._rows = rows
        self.fingerprint = fingerprint
        if columns is None:
            columns = list(dict.fromkeys(name for row in rows if not isinstance(row, BadRow) for name in row))
        self.columns = columns

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> Cells | BadRow:
        """Return a row with all columns, or why it cannot be read."""
        cells = self._rows[number]
        return cells if isinstance(cells, BadRow) else {name: cells.get(name) for name in self.columns}


class ArrowRows(Rows):
    """Rows of a ``datasets.Dataset``, which lie on disk.

    They are taken as Arrow stores them: no picture, sound or film is decoded, whatever the columns are declared as.

    Args:
        rows: The data set.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows.with_format("arrow")
        self.fingerprint = str(rows._fingerprint)
        self.columns = list(rows.column_names)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> Cells | BadRow:
        """Return a row, or why it cannot be read."""
        try:
            (cells,) = self._rows[number].to_pylist()
        except Exception as error:  # Arrow's for a year that Python does not know, zoneinfo's for a time zone, pandas'
            return BadRow(
                f"cannot be read ({shown(str(error), 200)})",
                "Write dates as text, leave out their column, or remove it.",
            )
        return dict(cells)
