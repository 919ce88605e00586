"""The Parquet files of samples, one per evaluation: a row per group, with its views and responses nested in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saei.runtime.files import replacing
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample, ViewSample
from saei.types import Distance

FOLDER = "samples"
FORMAT = 1
"""Of the files; a later version may add columns, which an earlier one does not read."""


def sample_file(run: Path, step: int) -> Path:
    """Return the file of the samples of an evaluation."""
    return run / FOLDER / f"step-{step:06d}.parquet"


def sample_files(run: Path) -> dict[int, Path]:
    """Return a run's files of samples by step, in the order of steps."""
    files = {}
    for file in (run / FOLDER).glob("step-*.parquet"):
        digits = file.stem.removeprefix("step-")
        if digits.isdecimal():
            files[int(digits)] = file
    return dict(sorted(files.items()))


def drop_later_samples(run: Path, step: int) -> None:
    """Delete the samples of steps after ``step``.

    Raises:
        OSError: If the disk refuses.
    """
    for of_step, file in sample_files(run).items():
        if of_step > step:
            file.unlink()


def write_samples(run: Path, step: int, groups: Sequence[GroupSample]) -> int:
    """Write the samples of an evaluation, whole or not at all, and return the size of the file in bytes.

    Raises:
        OSError: If the disk refuses.
    """
    import pyarrow.parquet

    file = sample_file(run, step)
    file.parent.mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist([_plain(asdict(group)) for group in groups], schema=_schema())
    with replacing(file) as temporary:
        # Text and numbers repeat little within a group; dictionaries of values would only take space.
        pyarrow.parquet.write_table(table, temporary, compression="zstd", use_dictionary=False)
        return temporary.stat().st_size


def read_samples_of(file: Path) -> list[GroupSample]:
    """Return the groups of one file.

    Raises:
        OSError: If the disk refuses.
        ValueError: If the file is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.ParquetFile(file).read().to_pylist()
        return [_group(row) for row in rows]
    except (pyarrow.ArrowException, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _plain(value: Any) -> Any:
    """Return a value as pyarrow takes it: text in UTF-8, mappings of open names as lists of pairs."""
    if isinstance(value, str):  # half of a surrogate pair has no encoding
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        plain = {_plain(name): _plain(inner) for name, inner in value.items()}
        for name in OPEN & plain.keys():
            plain[name] = list(plain[name].items())
        return plain
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


OPEN = {"distances", "gradient_signs", "parts"}
"""Fields that are mappings with names of any strategy."""


def _schema() -> Any:
    import pyarrow as pa

    texts, numbers, flags = pa.list_(pa.string()), pa.list_(pa.float32()), pa.list_(pa.bool_())
    distance = pa.struct({"share": pa.float32(), "largest": pa.float32()})
    tokens = pa.struct({"response": pa.int32(), "selected": flags, "entropies": numbers})
    view = pa.struct(
        {
            "origin": pa.string(),
            "question": pa.string(),
            "answer": pa.string(),
            "pictures": pa.list_(pa.binary()),
            "seed": pa.int64(),
            "strength": pa.float64(),
            "distances": pa.map_(pa.string(), distance),
            "gradient_signs": pa.map_(pa.string(), numbers),
            "gradients": pa.list_(pa.binary()),
            "tokens": pa.list_(tokens),
        }
    )
    response = pa.struct(
        {
            "view": pa.int32(),
            "update_view": pa.int32(),
            "text": pa.string(),
            "ids": pa.list_(pa.int32()),
            "pieces": texts,
            "entropies": numbers,
            "logps": numbers,
            "truncated": pa.bool_(),
            "reward": pa.float64(),
            "correct": pa.bool_(),
            "parts": pa.map_(pa.string(), pa.float64()),
            "extracted": pa.string(),
            "reason": pa.string(),
            "advantage": pa.float64(),
            "dropped": pa.string(),
            "entropy": pa.float64(),
        }
    )
    fields = {
        "step": pa.int64(),
        "source": pa.string(),
        "number": pa.int32(),
        "example": pa.string(),
        "untouched": pa.string(),
        "views": pa.list_(view),
        "responses": pa.list_(response),
    }
    return pa.schema(fields, metadata={"saei-samples": str(FORMAT)})


def _group(row: Mapping[str, Any]) -> GroupSample:
    views, responses = tuple(map(_view, row["views"])), tuple(map(_response, row["responses"]))
    return GroupSample(
        step=int(row["step"]),
        source="held-out" if row["source"] == "held-out" else "training",
        number=int(row["number"]),
        example=row["example"],
        untouched=row.get("untouched"),
        views=views,
        responses=responses,
    )


def _view(row: Mapping[str, Any]) -> ViewSample:
    values = {name: row[name] for name in ViewSample.__slots__ if name in row}
    values["pictures"], values["gradients"] = tuple(row["pictures"]), tuple(row["gradients"])
    values["distances"] = {name: Distance(**distance) for name, distance in row["distances"]}
    values["gradient_signs"] = {name: tuple(shares) for name, shares in row["gradient_signs"]}
    values["tokens"] = tuple(
        AttackedTokens(each["response"], tuple(each["selected"]), tuple(each["entropies"])) for each in row["tokens"]
    )
    return ViewSample(**values)


def _response(row: Mapping[str, Any]) -> ResponseSample:
    values = {name: row[name] for name in ResponseSample.__slots__ if name in row}
    values |= {name: tuple(row[name]) for name in ("ids", "pieces", "entropies", "logps")}
    return ResponseSample(**{**values, "parts": dict(row["parts"])})
