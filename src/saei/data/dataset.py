"""Any table with images, questions and answers as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from saei.data.columns import AUTO, Columns, as_text, check_unique, find_columns
from saei.data.markers import place_images
from saei.data.table_task import TableExample, TableTask
from saei.data.tables import Table
from saei.errors import DataError, shown


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
        return check_columns(self.config.columns, table)

    def parse_row(self, row: Mapping[str, Any], table: Table, where: str) -> TableExample:
        """Return the row's question, answer and images.

        Raises:
            DataError: If question, answer or image is empty or of a wrong type, or the question has more image markers
                than the row has images.
        """
        return example_in_row(row, self.config.columns, table, where)


def check_columns(requested: Columns, table: Table) -> str | None:
    """Find the columns of a table, and return which were found by their names, None if none were.

    Raises:
        DataError: If a column is missing or ambiguous, or ids repeat.
    """
    columns = find_columns(requested, table.rows.columns, table.where)
    if columns.id is not None:
        check_unique(table.rows.column(columns.id), columns.id, table.where)
    automatic = [role for role, column in requested if column == AUTO]
    by_name = [f"{role} from '{getattr(columns, role)}'" for role in automatic]
    return f"{table.where}: {', '.join(by_name)}." if by_name else None


def example_in_row(row: Mapping[str, Any], requested: Columns, table: Table, where: str) -> TableExample:
    """Return a row's question, answer and images.

    Raises:
        DataError: If question, answer or image is empty or of a wrong type, or the question has more image markers
            than the row has images.
    """
    columns = find_columns(requested, table.rows.columns, table.where)
    question = as_text(row[columns.question], columns.question, where)
    images = _images(row[columns.images], columns.images, where) if columns.images else ()
    question, images = place_images(question, images, where=where)
    return TableExample(
        question=as_text(question, columns.question, where),
        answer=as_text(row[columns.answer], columns.answer, where),
        images=images,
        id=None if columns.id is None else as_text(row[columns.id], columns.id, where),
    )


def _images(cell: object, column: str, where: str) -> Sequence[object]:
    """Return the images of a cell; a list may be empty, and null is text alone, but an empty path is an omission."""
    if isinstance(cell, str) and not cell.strip():
        raise DataError(
            "A row of a table with images names its image.",
            reason=f"Column '{shown(column)}' is empty in {where}.",
            remedy="Fill it in or remove the row.",
        )
    return cell if isinstance(cell, list) else [] if cell is None else [cell]
