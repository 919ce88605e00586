"""Files with one JSON object per line, each written at a step, such as a run's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saei.runtime.files import json_lines, write_whole


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
