"""The hub of data sets: whether it can be reached, which revision it serves, and reading from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT_S = 5.0
"""Seconds after which the hub counts as out of reach and only its local cache is asked."""


def hub_answers() -> bool:
    """Return whether the hub can be reached; asked first, since ``datasets`` retries for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # whatever the transport raises, the hub is out of reach
        return False
    return True


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Let ``datasets`` ask the hub if it can be reached, else only the local cache; gives which of the two."""
    from datasets import config

    before, online = config.HF_HUB_OFFLINE, hub_answers()
    config.HF_HUB_OFFLINE = not online
    try:
        yield online
    finally:
        config.HF_HUB_OFFLINE = before


def current_revision(path: str, revision: str | None) -> str | None:
    """Return the commit that a data set's revision, or its newest state, is now; None if the hub does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(path, revision=revision, timeout=TIMEOUT_S).sha
    except Exception:  # no such data set or no access: loading it raises the proper error
        return None


def hub_rows(
    path: str, name: str | None, revision: str | None, split: str, limit: int | None
) -> tuple[Any, tuple[Path, ...], str | None]:
    """Return a split's rows, the folders that their images may lie in, and the commit that they are of.

    Args:
        path: The hub's id.
        name: The configuration.
        revision: A git revision, None for the newest.
        split: The name of the split in the data.
        limit: Only the first rows, and nothing else is fetched; None for all.
    """
    import datasets
    from huggingface_hub import constants

    roots = (Path(constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))
    with hub_or_cache() as online:
        commit = current_revision(path, revision) if online else None
        options = {"revision": commit or revision, "split": split}
        if limit is None or not online:
            rows = datasets.load_dataset(path, name, **options)
        else:
            rows = first_rows(datasets.load_dataset(path, name, streaming=True, **options), limit)
    return rows, roots, commit or revision


def first_rows(stream: Any, limit: int) -> Any:
    """Return the first rows of a streamed data set as one that lies in memory, its images not decoded."""
    import datasets

    stream = without_decoding(stream)
    return datasets.Dataset.from_list(list(stream.take(limit)), features=stream.features)


def without_decoding(rows: Any) -> Any:
    """Return rows with images as bytes or paths: decoding is ours, guarded against enormous images."""
    from datasets import Image

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, Image):
            rows = rows.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            rows = rows.cast_column(column, type(feature)(Image(decode=False)))
    return rows
