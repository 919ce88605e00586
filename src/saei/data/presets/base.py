"""The seam of presets: known data sets, whose columns need not be named."""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from saei.data.base import Reporting
from saei.data.columns import MAX_LIST, as_text, check_unique
from saei.data.markers import place_images
from saei.data.table_task import TableExample, TableTask
from saei.data.tables import Table
from saei.errors import DataError, shown

_OPTION = re.compile(r"^\s*\(?([A-Z])[.):：．、]\s*(\S.*?)\s*$", re.MULTILINE)  # noqa: RUF001  # full-width signs

BY_RULES = "by rules, as the data set's own evaluation"
LONGEST = 2048
"""Tokens that the field lets a response to these data sets have."""


class Preset(TableTask, ABC):
    """A data set with known columns. To add one: derive, nest a ``Config`` with its path, implement ``convert``.

    ``Example.meta`` tells the graders what they compare (``answer_type``, ``choices``, ``precision``, ``unit``;
    what is absent is read from the gold answer), and evaluation by what results are grouped.
    """

    fetches: ClassVar[bool] = True
    reporting: ClassVar[Reporting] = Reporting(by=(), agreement=BY_RULES, max_new_tokens=LONGEST)
    columns: ClassVar[tuple[str, ...]]
    """The columns that ``convert`` cannot do without."""
    id_column: ClassVar[str | None] = None

    @abstractmethod
    def convert(self, row: Mapping[str, Any]) -> TableExample:
        """Return what a row says.

        Raises:
            ValueError: If a cell is not as the data set's card says.
        """

    def check(self, table: Table) -> str | None:
        """Look for the columns.

        Raises:
            DataError: If one is missing or ids repeat.
        """
        missing = [column for column in self.columns if column not in table.rows.columns]
        if missing:
            columns = shown(", ".join(table.rows.columns), MAX_LIST)
            raise DataError(
                f"The task {self.name()} needs the columns {', '.join(self.columns)}.",
                reason=f"{table.where} has no {', '.join(missing)}; it has {columns}.",
                remedy="Pin a revision with these columns (task.revision), or use the task dataset and name yours.",
            )
        if self.id_column is not None and self.id_column in table.rows.columns:
            check_unique(table.rows.column(self.id_column), self.id_column, table.where)
        return None

    def parse_row(self, row: Mapping[str, Any], table: Table, where: str) -> TableExample:
        """Return what a row says.

        Raises:
            DataError: If a cell is empty or not as the data set's card says.
        """
        try:
            item = self.convert(row)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(
                f"A row of {self.name()} has what its card says.",
                reason=f"{where}: {type(error).__name__}: {shown(str(error), 200)}.",
                remedy="Pin a revision that has (task.revision), or remove the row.",
            ) from error
        # A published question is asked, whatever its markers say: those without a picture of their own are left out.
        question, images = place_images(str(item.question), item.images, where=where, surplus=True)
        id_ = str(row[self.id_column]) if self.id_column is not None and self.id_column in row else None
        answer = as_text(item.answer, "answer", where)
        return replace(item, question=as_text(question, "question", where), answer=answer, images=images, id=id_)


def image_of(*cells: object) -> list[object]:
    """Return the first cell that holds an image as a list of one, an empty list if none does."""
    filled = [cell for cell in cells if cell and not (isinstance(cell, Mapping) and not any(cell.values()))]
    return filled[:1]


def with_options(question: str, options: Sequence[str]) -> str:
    """Return a question with one line per option, in letters."""
    lines = [f"({letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines])


def inline_options(question: str) -> tuple[str, ...]:
    """Return the texts of the options that a question lists line by line as ``A. …``; empty if it lists none."""
    options = _OPTION.findall(question)
    in_order = [letter for letter, _ in options] == list(string.ascii_uppercase[: len(options)])
    return tuple(text for _, text in options) if len(options) > 1 and in_order else ()


def letter(index: int, count: int) -> str:
    """Return the letter of option ``index`` of ``count``.

    Raises:
        ValueError: If there is no such option.
    """
    if not 0 <= index < count:
        raise ValueError(f"option {index} of {count}")
    return string.ascii_uppercase[index]
