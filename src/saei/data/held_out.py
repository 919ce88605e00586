"""Holding rows out for evaluation where the data has no split for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def held_out(keys: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """Return the numbers of the rows that are kept for evaluation, sorted; a pure function of the arguments.

    Rows of the same key, such as several questions about one photo, stay together, so that no evaluation
    photo was trained on. At least one key goes to each side; with a single key nothing is held out.

    Args:
        keys: One key per row.
        share: Share of the rows that is held out; exact up to the size of the last key.
        seed: Seed of the choice.
    """
    rows: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        rows.setdefault(key, []).append(number)
    groups = list(rows.values())
    wanted = max(1, round(share * len(keys)))
    chosen: list[int] = []
    for place in np.random.default_rng(seed).permutation(len(groups))[: len(groups) - 1]:
        if len(chosen) >= wanted:
            break
        chosen += groups[int(place)]
    return sorted(chosen)
