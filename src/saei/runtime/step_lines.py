"""Files with one JSON object per line, each written at a step: metrics, samples and views of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saei.runtime.files import json_lines, write_whole
from saei.types import Group


def append_line(file: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a file; numbers at its top level that are not finite are written as null.

    Raises:
        OSError: If the disk refuses.
    """
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(finite) + "\n")


def sample_lines(step: int, group: Group, rewards: Iterable[float]) -> Iterator[dict[str, Any]]:
    """Yield the line of each response of a group, with its origin, reward and mean entropy in nats.

    The question is that of the view it was drawn from, the answer that of the view it is trained under.
    """
    for n, (response, reward) in enumerate(zip(group.responses, rewards, strict=True)):
        yield {
            "step": step,
            "example": group.example.id,
            "question": group.views[group.sampled_from[n]].example.question,
            "answer": group.update_view(n).example.answer,
            "origin": group.origin(n),
            "reward": reward,
            "entropy": float(response.entropy_T.mean()) if len(response) else None,
            "text": response.text,
        }


def view_lines(step: int, group: Group) -> Iterator[dict[str, Any]]:
    """Yield the line of each view that an intervention made, with how it made it."""
    for number, record in enumerate(group.records, start=1):
        view = group.views[number]
        line: dict[str, Any] = {
            "step": step,
            "example": group.example.id,
            "view": number,
            "origin": view.origin,
            "seed": record.seed,
            "strength": record.strength,
            "distances": {surface: asdict(distance) for surface, distance in record.distances.items()},
        }
        if view.example.question != group.example.question:
            line |= {"question": view.example.question, "answer": view.example.answer}
        if record.trace is not None:
            line["selected"] = [selected_T.nonzero()[:, 0].tolist() for selected_T in record.trace.selected_NT]
            line["gradient_signs"] = record.trace.gradient_signs
        yield line


def last_step(lines: Iterable[Mapping[str, Any]]) -> int:
    """Return the last step of some lines, 0 for none; a damaged line may have no step."""
    return int(max((step for step in map(_step_of, lines) if step < math.inf), default=0))


def drop_later_steps(file: Path, step: int) -> int:
    """Drop the lines of steps after ``step``, and broken lines.

    Returns:
        The number of broken lines before the last; the last one is cut off wherever a process died.

    Raises:
        OSError: If the disk refuses.
    """
    if not file.exists():
        return 0
    lines = list(json_lines(file.read_bytes()))
    remaining = [line for line, value in lines if value is not None and _step_of(value) <= step]
    write_whole(file, b"".join(line + b"\n" for line in remaining))
    return sum(value is None for _, value in lines[:-1])


def _step_of(line: Mapping[str, Any]) -> float:
    """Return the step of a line, infinity for a line without one."""
    step = line.get("step")
    return step if isinstance(step, int) else math.inf
