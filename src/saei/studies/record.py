"""What is kept of each finished run of a study: its configuration and its metrics, small enough for git."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saei.config.run import dump
from saei.config.yaml import write_yaml
from saei.runtime.files import disk_errors, read_jsonl, write_whole
from saei.studies.plan import StudyRun

MOST_BYTES = 50_000
"""Of a run's record, all its files together."""

RESERVED_BYTES = 15_000
"""Of them for the configuration, and for grades beside it."""

DIGITS = 6


def folder_of(run: StudyRun, keep: Path) -> Path:
    """Return where a run of the study that is kept in a folder is recorded."""
    return keep / "runs" / run.identity


def is_recorded(run: StudyRun, keep: Path) -> bool:
    """Return whether a run was finished and recorded, on whichever machine."""
    return (folder_of(run, keep) / "metrics.jsonl").is_file()


def record(run: StudyRun, run_folder: Path, keep: Path) -> Path:
    """Write the record of a finished run, and return its folder.

    Raises:
        CheckpointError: If the disk refuses.
    """
    folder = folder_of(run, keep)
    config = dump(run.planned.config)
    config["model"]["path"] = run.base.known_as
    del config["output"]  # where it was written is of no use elsewhere
    head = {"arm": run.arm, "base": run.base.label, "repeat": run.repeat, "sha256": run.planned.identity}
    with disk_errors("A finished run is recorded.", folder, "Free some space, or give another --keep."):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.yaml", write_yaml({**head, "config": config}))
        # Last: it says that the record is whole.
        write_whole(folder / "metrics.jsonl", thinned(read_jsonl(run_folder / "metrics.jsonl")))
    return folder


def recorded_metrics(run: StudyRun, keep: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics that a record has."""
    return read_jsonl(folder_of(run, keep) / "metrics.jsonl")


def outcome(run: StudyRun, keep: Path, measure: str) -> float | None:
    """Return a measure after the last step of a recorded run, None where it was not taken."""
    values = [line[measure] for line in recorded_metrics(run, keep) if line.get(measure) is not None]
    return float(values[-1]) if values else None


def thinned(lines: Sequence[Mapping[str, Any]], most: int = MOST_BYTES - RESERVED_BYTES) -> str:
    """Return lines of metrics as text of at most some bytes: evaluations first, then as many steps as there is room.

    The first and the last evaluation are always there; every second of the others goes until the rest fits.
    """
    texts = [json.dumps({name: _rounded(value) for name, value in line.items()}) + "\n" for line in lines]
    evaluations = [number for number, line in enumerate(lines) if "eval/accuracy" in line]
    steps = [number for number, line in enumerate(lines) if "eval/accuracy" not in line]
    chosen = _fitting(evaluations, texts, most)
    room = most - sum(len(texts[number]) for number in chosen)
    # The step before an evaluation is no better than another, so none is kept where only one would fit.
    some = _fitting(steps, texts, room)
    if sum(len(texts[number]) for number in some) <= room:
        chosen += some
    return "".join(texts[number] for number in sorted(chosen))


def _fitting(numbers: list[int], texts: Sequence[str], most: int) -> list[int]:
    """Leave out every second line, never the first and the last, until the others fit or no more can go."""
    while len(numbers) > 2 and sum(len(texts[number]) for number in numbers) > most:
        numbers = [*numbers[:-1:2], numbers[-1]]
        if len(numbers) == 3:  # the middle one stays forever otherwise
            numbers = numbers if sum(len(texts[number]) for number in numbers) <= most else [numbers[0], numbers[-1]]
    return list(numbers)


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
