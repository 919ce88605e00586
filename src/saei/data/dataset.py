"""Any table with images, questions and answers as a task."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from saei.data.columns import AUTO, Columns, as_text, check_unique, find_columns, without_markers
from saei.data.table_task import Item, TableTask
from saei.data.tables import Table
from saei.errors import DataError


class Dataset(TableTask):
    """Rows of your own table as examples: a local file, a local folder or a data set of the hub."""

    class Config(TableTask.Config):
        """Fields of ``dataset``.

        Attributes:
            columns: Which column holds what.
        """

        type: Literal["dataset"] = "dataset"
        columns: Columns = Columns()

    config: Config

    def check(self, table: Table) -> str | None:
        """Find the columns, and say which were found by their names.

        Raises:
            DataError: If a column is missing or ambiguous, or ids repeat.
        """
        columns = self._columns(table)
        if columns.id is not None:
            check_unique(table.rows[columns.id], columns.id, table.where)
        found = [f"{role} from '{getattr(columns, role)}'" for role, asked in self.config.columns if asked == AUTO]
        return f"{table.where}: {', '.join(found)}." if found else None

    def item(self, row: Mapping[str, Any], table: Table, where: str) -> Item:
        """Return the row's question, answer and images.

        Raises:
            DataError: If question, answer or image is empty or of a wrong type.
        """
        columns = self._columns(table)
        question = row[columns.question]
        if isinstance(question, str):
            question = without_markers(question)
        return Item(
            question=as_text(question, columns.question, where),
            answer=as_text(row[columns.answer], columns.answer, where),
            images=_images(row[columns.images], columns.images, where) if columns.images else (),
            id=None if columns.id is None else as_text(row[columns.id], columns.id, where),
        )

    def photos(self, table: Table) -> Sequence[Hashable]:
        """Return the image paths of each row, or the rows' numbers where images are not paths."""
        column = self._columns(table).images
        first = None if column is None else table.rows[0][column]
        named = isinstance(first[0] if isinstance(first, list) and first else first, str)
        return [str(cell) for cell in table.rows[column][: len(table.numbers)]] if named else table.numbers

    def _columns(self, table: Table) -> Columns:
        return find_columns(self.config.columns, table.rows.column_names, table.where)


def _images(cell: object, column: str, where: str) -> Sequence[object]:
    """Return the images of a cell; a list may be empty, and null is text alone, but an empty path is an omission."""
    if cell == "":
        raise DataError(
            "A row of a table with images names its image.",
            reason=f"Column '{column}' is empty in {where}.",
            remedy="Fill it in or remove the row.",
        )
    return cell if isinstance(cell, list) else [] if cell is None else [cell]
