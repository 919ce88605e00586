"""Schedules: a number that follows the training."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

Level = Annotated[float, Field(gt=0.0, le=100.0)]
Progress = Annotated[float, Field(ge=0.0, le=1.0)]


def _rising(schedule: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    progress = [point for point, _ in schedule]
    if sorted(set(progress)) != progress:
        raise ValueError(
            "The progress of a schedule's points rises from each to the next, such as "
            f"[[0, 1], [0.5, 0.6], [1, 0.3]]. Got {', '.join(f'{point:g}' for point in progress)}."
        )
    return schedule


Schedule: TypeAlias = Annotated[
    tuple[tuple[Progress, Level], ...], Field(min_length=2, max_length=1000), AfterValidator(_rising)
]
"""``[progress, number]`` points with straight lines between them; progress is the share of the training done."""


def level_at(schedule: float | Schedule, progress: float) -> float:
    """Return a schedule's number at a share of the training in [0, 1]; beyond its ends it stays as it is there."""
    if not isinstance(schedule, tuple):
        return schedule
    start, level = schedule[0]
    if progress <= start:
        return level
    for end, next_level in schedule[1:]:
        if progress <= end:
            share = (progress - start) / (end - start)
            return (1 - share) * level + share * next_level
        start, level = end, next_level
    return level
