"""The responses of a scored group by the origin of the view that they were drawn from."""

from __future__ import annotations

from collections.abc import Collection

from saei.types import CLEAN, Drops, ScoredGroup


def origins_of(scored: ScoredGroup) -> dict[str, list[int]]:
    """Return the numbers of a group's responses by their origins, in the order of the responses."""
    numbers: dict[str, list[int]] = {}
    for number in range(len(scored.grades)):
        numbers.setdefault(scored.group.origin(number), []).append(number)
    return numbers


def intervened_origins(scored: ScoredGroup) -> dict[str, list[int]]:
    """Return the same without the clean view's responses."""
    return {origin: numbers for origin, numbers in origins_of(scored).items() if origin != CLEAN}


def drops_of(scored: ScoredGroup, origins: Collection[str], reason: str) -> Drops:
    """Return the drops of all of a group's responses of some origins."""
    return {n: reason for origin, numbers in origins_of(scored).items() if origin in origins for n in numbers}
