"""Which column of a table holds what: as asked, or found by its name where that is obvious."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from saei.config.strategy import Section
from saei.errors import DataError, shown

AUTO = "auto"

MAX_LIST = 500
"""Characters of a list of columns in a message."""

_SURROGATE = re.compile("[\ud800-\udfff]")

NAMES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "images": (
        ("images", "image"),
        ("file_name", "filename", "image_path", "image_file", "photo", "photos", "picture", "pictures", "img"),
        ("path", "file"),
    ),
    "question": (("question", "problem"), ("prompt", "query"), ("text", "instruction")),
    "answer": (("answer",), ("label", "solution", "ground_truth", "gold", "target"), ("answers", "labels")),
}
"""For each role the names by which its column is found: the first tier of which the table has one counts."""


class Columns(Section):
    """Which column holds what; ``auto`` finds the column where its name is obvious.

    Attributes:
        images: An image or a list of images: PIL images, encoded bytes, or paths, relative to the folder of the
            table. None for text alone.
        question: The question; ``<image>`` markers in it say where its images stand.
        answer: The gold answer: text or a number.
        id: A unique id; None for the row's number.
    """

    images: str | None = AUTO
    question: str = AUTO
    answer: str = AUTO
    id: str | None = None


def find_columns(requested: Columns, names: Sequence[str], where: str) -> Columns:
    """Return the columns with every ``auto`` replaced by a column of the table.

    Args:
        requested: What the configuration says.
        names: The table's columns.
        where: Names the table in errors.

    Raises:
        DataError: If a column is missing, or none or several could be meant; all of them at once.
    """
    candidates = {role: [column] if column != AUTO else _candidates(role, names) for role, column in requested}
    resolved = {
        role: columns[0] for role, columns in candidates.items() if len(columns) == 1 and columns[0] in (*names, None)
    }
    unassigned = [name for name in names if name not in resolved.values()]
    reasons, remedies = [], []
    for role, columns in candidates.items():
        path = f"--set task.columns.{role}="
        if role in resolved:
            continue
        if len(columns) > 1:
            choices = [path + name for name in columns]
        else:
            choices = [path + (unassigned[0] if len(unassigned) == 1 else "NAME")]
        if len(columns) > 1:
            reasons.append(f"The {role} may be in {' or '.join(map(repr, columns))}.")
        elif columns:
            reasons.append(f"There is no column '{columns[0]}' (columns.{role}).")
        else:
            known = ", ".join(name for tier in NAMES[role] for name in tier)
            reasons.append(f"No column has a name for the {role} (columns.{role}), such as {known}.")
            if role == "images":
                choices.append(f"{path}null for text alone")
        remedies.append(", or ".join(choices))
    if reasons:
        listed, missing = shown(", ".join(names), MAX_LIST), shown(" ".join(reasons), 2 * MAX_LIST)
        raise DataError(
            "Images, question and answer need a column each.",
            reason=f"{where} has the columns {listed}. {missing}",
            remedy=f"Name them: {shown('; '.join(remedies), MAX_LIST)}.",
        )
    return Columns.model_validate(resolved)


def _candidates(role: str, names: Sequence[str]) -> list[str]:
    """Return the table's columns named in the first tier of the role's names that has any of them."""
    plain = {name: name.strip().casefold().replace(" ", "_").replace("-", "_") for name in names}
    for tier in NAMES[role]:
        candidates = [name for name in names if plain[name] in tier]
        if candidates:
            return candidates
    return []


def as_text(value: object, column: str, where: str) -> str:
    """Return a cell as the text that its writer would have written.

    Whole numbers lose the ``.0`` that a table's column type gave them, and dates the midnight.

    Raises:
        DataError: If it is empty, damaged, or neither text nor a number.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    value = _plain(value)
    infinite = isinstance(value, float) and math.isinf(value)
    if infinite or not isinstance(value, str | int | float | None):
        kind = "infinity" if infinite else f"a {type(value).__name__}"
        raise DataError(
            "Questions and answers are text or numbers.",
            reason=f"Column '{shown(column)}' holds {kind} in {where}.",
            remedy="Write it as text, or name another column.",
        )
    text = "" if value is None else str(value).strip()
    if not text:
        raise DataError(
            "Every row needs a question and an answer.",
            reason=f"Column '{shown(column)}' is empty in {where}.",
            remedy="Fill it in or remove the row.",
        )
    if "\0" in text or _SURROGATE.search(text):
        sign = "lone surrogate" if _SURROGATE.search(text) else "NUL"
        raise DataError(
            "Questions and answers are Unicode text.",
            reason=f"Column '{shown(column)}' holds a {sign} in {where}.",
            remedy="The text was damaged when it was written: write it anew, or remove the row.",
        )
    return text


def _plain(value: object) -> object:
    """Return what a table's column type made of a cell as text or a number, None for what says nothing."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time() and value.tzinfo is None:
        return value.date().isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return str(value)
    if isinstance(value, bytes):  # as some writers store text
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def check_unique(ids: Iterable[object], column: str, where: str) -> None:
    """Check that no id of a column comes twice; one that is none is left to its own row.

    Raises:
        DataError: Naming the first that does.
    """
    seen: set[str] = set()
    for number, value in enumerate(ids):
        try:
            text = as_text(value, column, where)
        except DataError:
            continue
        if text in seen:
            raise DataError(
                "Ids are unique.",
                reason=f"{shown(repr(value))} comes again in row {number} of {where}, column '{shown(column)}'.",
                remedy="Name another column, or set task.columns.id=null for the rows' numbers.",
            )
        seen.add(text)
