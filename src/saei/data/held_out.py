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
