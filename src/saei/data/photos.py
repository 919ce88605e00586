"""Which rows show the same picture, and holding rows out so that no picture is both trained on and evaluated on."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from saei.data.open_image import find_image
from saei.errors import DataError


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the bytes of a picture are.

    Attributes:
        size: How many there are; None if there is no such file.
        path: The file; empty for a picture inside of the table.
        digest: Of the bytes, where they were read.
    """

    size: int | None
    path: str = ""
    digest: bytes = b""


def photo_keys(images_of_rows: Iterable[Sequence[object]], roots: Sequence[Path]) -> list[Hashable]:
    """Return one key per row; rows that share a picture, directly or through other rows, have the same.

    Pictures are the same if their bytes are, however their paths are spelled and wherever they lie. A file is only
    read where another picture has as many bytes; one that is not there is known by its path.

    Args:
        images_of_rows: The images of each row, as ``open_image`` takes them.
        roots: Folders that paths start at.
    """
    files: dict[str, Picture] = {}
    rows: list[list[Picture]] = []
    for images in images_of_rows:
        rows.append([])
        for image in images:
            if isinstance(image, Mapping):
                image = image.get("bytes") or image.get("path")
            if isinstance(image, str):
                if image not in files:
                    files[image] = _file(image, roots)
                rows[-1].append(files[image])
            elif isinstance(image, bytes):
                rows[-1].append(_inside(image))
            elif isinstance(image, Image.Image):
                rows[-1].append(_inside(image.tobytes()))
    of_size: dict[int | None, set[Picture]] = defaultdict(set)
    for picture in {picture for row in rows for picture in row}:
        of_size[picture.size].add(picture)
    same = {
        picture: _read(picture) if size is not None and len(pictures) > 1 else picture
        for size, pictures in of_size.items()
        for picture in pictures
    }
    return _connected([[same[picture] for picture in row] for row in rows])


def hold_out(keys: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """Return the numbers of the rows that are kept for evaluation, sorted; a pure function of the arguments.

    Rows of the same key, such as several questions about one photo, stay together, so that no evaluation
    photo was trained on. At least one key goes to each side; with a single key nothing is held out.

    Args:
        keys: One key per row.
        share: Share of the rows that is held out, come as near to as keys allow.
        seed: Seed of the choice.
    """
    rows: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        rows.setdefault(key, []).append(number)
    groups = list(rows.values())
    if len(groups) == 1:
        return []
    wanted = max(1, round(share * len(keys)))
    order = [groups[int(place)] for place in np.random.default_rng(seed).permutation(len(groups))]
    chosen: list[int] = []
    for group in order:
        more = len(chosen) + len(group)
        if more - wanted < wanted - len(chosen) and more < len(keys):
            chosen += group
    return sorted(chosen) if chosen else min(order, key=len)


def _file(path: str, roots: Sequence[Path]) -> Picture:
    try:
        file = find_image(path, roots, "")
        return Picture(file.stat().st_size, str(file))
    except (DataError, OSError, ValueError):  # no such file or path: the row raises the error when it is used
        return Picture(None, os.path.normpath(path))


def _inside(content: bytes) -> Picture:
    return Picture(len(content), digest=hashlib.sha256(content).digest())


def _read(picture: Picture) -> Picture:
    """Return a picture as if it lay inside of the table."""
    if picture.digest:
        return picture
    try:
        return _inside(Path(picture.path).read_bytes())
    except OSError:
        return picture


def _connected(rows: Sequence[Sequence[Hashable]]) -> list[Hashable]:
    """Return for each row the name of the part of the graph it is in, whose edges are what rows share."""
    parent: dict[Hashable, Hashable] = {}

    def name(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row in rows:
        for node in row:
            parent[name(node)] = name(row[0])
    return [name(row[0]) if row else number for number, row in enumerate(rows)]
