"""Reading through ``datasets`` so that cells stay what they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def csv_options(file: Path) -> dict[str, Any]:
    """Return how to read a CSV file so that every cell stays the text it is: ``007``, ``NA`` and ``1.50`` included."""
    import datasets

    with file.open(encoding="utf-8-sig", newline="") as opened:
        heading = opened.readline()
    separator = max(",;\t", key=heading.count)  # spreadsheets write semicolons where the comma is a decimal sign
    names = next(csv.reader([heading], delimiter=separator), [])
    features = datasets.Features({name: datasets.Value("string") for name in names})
    return {"sep": separator, "features": features, "keep_default_na": False}


def without_decoding(rows: Any) -> Any:
    """Return rows with images as bytes or paths: decoding is ours, guarded against enormous images."""
    from datasets import Image

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, Image):
            rows = rows.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            rows = rows.cast_column(column, type(feature)(Image(decode=False)))
    return rows
