"""Examples that a Python program has at hand, as a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from PIL.Image import Image

from saei.data.base import Split
from saei.data.columns import Columns
from saei.data.dataset import check_columns, example_in_row
from saei.data.rows import ArrowRows, Cells, Rows, TextRows
from saei.data.table_task import TableExample, TableTask
from saei.data.tables import Table
from saei.errors import ConfigError, DataError, shown
from saei.types import Example

Examples: TypeAlias = Sequence[Example] | Sequence[Mapping[str, Any]] | Any
"""Examples, rows with a question, an answer and images, or a ``datasets.Dataset`` of such rows."""

EXAMPLE = "example"
"""The column of a table that is made of ``Example`` objects."""


class InMemory(TableTask):
    """Examples that a Python program gave to ``Trainer``; a file cannot name them.

    Without examples for evaluation some of the others are held out, as for ``dataset``.
    """

    class Config(TableTask.Config):
        """Fields, filled by ``Trainer``.

        Attributes:
            path: Names the examples in messages.
            content: Hash of the examples, by which a resumed run recognises them.
            columns: Which column holds what.
        """

        type: Literal["in-memory"] = "in-memory"
        path: str = "examples"
        content: str
        columns: Columns = Columns()

    config: Config

    def __init__(self, config: Config, rows: Mapping[Split, Rows] | None = None) -> None:
        super().__init__(config)
        if rows is None:
            raise ConfigError(
                "The examples of this run are objects of a Python program.",
                reason="No file has them.",
                remedy="Resume it from Python with the same ones: Trainer(config, resume=run, examples=…). Evaluate "
                "its checkpoints on a task or a file: --task NAME or --data PATH.",
            )
        self._rows = rows

    @classmethod
    def of(cls, examples: Examples, eval_examples: Examples | None = None) -> Self:
        """Return the task of some examples.

        Args:
            examples: To train on.
            eval_examples: To evaluate on; None holds out some of the others.

        Raises:
            DataError: If they are of no form that is known.
        """
        rows: dict[Split, Rows] = {"train": _rows(examples, "examples")}
        if eval_examples is not None:
            rows["eval"] = _rows(eval_examples, "eval_examples")
        content = hashlib.sha256(" ".join(f"{split} {part.fingerprint}" for split, part in rows.items()).encode())
        return cls(cls.Config(content=content.hexdigest()[:16]), rows)

    def check(self, table: Table) -> str | None:
        """Find the columns, and say which were found by their names.

        Raises:
            DataError: If a column is missing or ambiguous.
        """
        return None if table.rows.columns == [EXAMPLE] else check_columns(self.config.columns, table)

    def parse_row(self, row: Mapping[str, Any], table: Table, where: str) -> TableExample:
        """Return what a row says.

        Raises:
            DataError: If it cannot be used.
        """
        if table.rows.columns != [EXAMPLE]:
            return example_in_row(row, self.config.columns, table, where)
        example: Example = row[EXAMPLE]
        return TableExample(example.question, example.answer, example.images, example.id, example.meta)

    def _read(self, split: Split) -> Table | None:
        if split not in self._rows:
            return None
        rows, name = self._rows[split], "examples" if split == "train" else "eval_examples"
        if not len(rows):
            raise DataError("A run needs an example.", reason=f"There are no {name}.", remedy="Give some.")
        table = Table(rows, split, name, (Path.cwd(), Path("/")), range(len(rows))[: self.config.limit])
        note = self.check(table)
        if note:
            self._notes[note] = None
        return table


def _rows(examples: Examples, name: str) -> Rows:
    """Return examples as rows.

    Raises:
        DataError: If they are of no form that is known.
    """
    if hasattr(examples, "with_format") and hasattr(examples, "column_names"):  # of `datasets`, which need not be here
        if isinstance(examples.column_names, Mapping) or not hasattr(examples, "__len__"):
            raise DataError(
                f"{name} are one split of a data set, which has a length.",
                reason=f"Got a {type(examples).__name__}.",
                remedy=f'Give one split, such as {name}=data["train"]; of a stream take a part.',
            )
        return ArrowRows(examples)
    given = list(examples)
    if all(isinstance(item, Example) for item in given):
        return TextRows([{EXAMPLE: item} for item in given], _fingerprint(given), [EXAMPLE])
    for number, item in enumerate(given):
        if not isinstance(item, Mapping):
            raise DataError(
                f"{name} are all Example objects, or all mappings such as "
                '{"image": picture, "question": "How high is it?", "answer": "3"}.',
                reason=f"Number {number} is a {type(item).__name__}: {shown(repr(item))}.",
                remedy="Give one form.",
            )
    return TextRows(given, _fingerprint(given))


def _fingerprint(items: Sequence[Example | Cells]) -> str:
    """Return a text that changes whenever an example does."""
    digest = hashlib.sha256()
    for item in items:
        for part in _content(item):
            digest.update(part + b"\0")
    return digest.hexdigest()


def _content(value: Any) -> Iterator[bytes]:
    """Yield what a value is made of: pixels of pictures, texts of all else."""
    if isinstance(value, Example):
        yield from _content([value.id, value.question, value.answer, value.images, value.meta])
    elif isinstance(value, Image):
        yield f"{value.mode} {value.size}".encode()
        yield value.tobytes()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name).encode(errors="backslashreplace")
            yield from _content(item)
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for item in value:
            yield from _content(item)
    else:
        yield repr(value).encode(errors="backslashreplace")
