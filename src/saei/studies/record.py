"""What is kept of each finished run of a study: configuration, metrics, final evaluation; small enough for git."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from saei.config.run import dump
from saei.config.yaml import write_yaml
from saei.runtime.files import disk_errors, read_jsonl, write_whole
from saei.studies.final.settings import FINAL
from saei.studies.plan import StudyRun

MOST_BYTES = 50_000
"""Of a run's record, all its files together."""

RESERVED_BYTES = 15_000
"""Of them for the configuration and the final evaluation; where they take more, metrics have less."""

SHORT = ("step", "eval/", "probe/")
"""What is kept of an evaluation where whole lines do not fit: no evaluation goes as long as another can be shortened,
since times to escape are compared."""

DIGITS = 6


def folder_of(run: StudyRun, keep: Path) -> Path:
    """Return where a run of the study that is kept in a folder is recorded."""
    return keep / "runs" / run.identity


def is_recorded(run: StudyRun, keep: Path) -> bool:
    """Return whether a run was finished and recorded, on whichever machine."""
    return (folder_of(run, keep) / "metrics.jsonl").is_file()


def record(run: StudyRun, run_folder: Path, keep: Path, names: Collection[str] = ()) -> Path:
    """Write the record of a finished run, and return its folder.

    Args:
        run: The run.
        run_folder: Where it was done.
        keep: Where its study is kept.
        names: Metrics that the study asks for; each line that is kept has them, however short it is.

    Raises:
        CheckpointError: If the disk refuses.
    """
    folder = folder_of(run, keep)
    config = dump(run.planned.config)
    config["model"]["path"] = run.base.known_as
    del config["output"]  # where it was written is of no use elsewhere
    head = {"arm": run.arm, "base": run.base.label, "repeat": run.repeat, "sha256": run.planned.identity}
    configuration = write_yaml({**head, "config": config})
    evaluated = _final_evaluation(run_folder / FINAL)
    room = MOST_BYTES - max(RESERVED_BYTES, len(configuration.encode()) + len(evaluated))
    with disk_errors("A finished run is recorded.", folder, "Free some space, or give another --keep."):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.yaml", configuration)
        if evaluated:
            write_whole(folder / FINAL, evaluated)
        # Last: it says that the record is whole.
        write_whole(folder / "metrics.jsonl", thinned(read_jsonl(run_folder / "metrics.jsonl"), room, names))
    return folder


def _final_evaluation(file: Path) -> bytes:
    """Return the final evaluation as it is recorded: without its problems' counts, if they take most of a record."""
    content = file.read_bytes() if file.is_file() else b""
    if len(content) <= MOST_BYTES // 2:
        return content
    measures = {name: value for name, value in json.loads(content).items() if name.startswith("final/")}
    return json.dumps(measures).encode()


def recorded_metrics(run: StudyRun, keep: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics that a record has."""
    return read_jsonl(folder_of(run, keep) / "metrics.jsonl")


def recorded_final(run: StudyRun, keep: Path) -> dict[str, Any]:
    """Return the final evaluation that a record has; empty if there was none."""
    try:
        final = json.loads((folder_of(run, keep) / FINAL).read_bytes())
    except (OSError, ValueError):
        return {}
    return final if isinstance(final, dict) else {}


def thinned(
    lines: Sequence[Mapping[str, Any]], most: int = MOST_BYTES - RESERVED_BYTES, names: Collection[str] = ()
) -> str:
    """Return lines of metrics as text of at most some bytes: evaluations first, then as many steps as there is room.

    The first and the last evaluation are always there. Every second of the others is shortened to what was evaluated,
    until all fit; if they do not fit shortened, every second goes.
    """
    texts = [_text(line) for line in lines]
    evaluations = [number for number, line in enumerate(lines) if "eval/accuracy" in line]
    steps = [number for number, line in enumerate(lines) if "eval/accuracy" not in line]
    shortened = {number: _text(_short(lines[number], names)) for number in evaluations}
    whole = list(evaluations)
    while len(whole) > 2 and sum(len((texts if n in whole else shortened)[n]) for n in evaluations) > most:
        whole = [*whole[:-1:2], whole[-1]] if len(whole) > 3 else [whole[0], whole[-1]]
    for number in set(evaluations) - set(whole):
        texts[number] = shortened[number]
    chosen = _fitting(evaluations, texts, most)
    room = most - sum(len(texts[number]) for number in chosen)
    # The step before an evaluation is no better than another, so none is kept where only one would fit.
    some = _fitting(steps, texts, room)
    if sum(len(texts[number]) for number in some) <= room:
        chosen += some
    return "".join(texts[number] for number in sorted(chosen))


def _short(line: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name.startswith(SHORT) or name in names}


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps({name: _rounded(value) for name, value in line.items()}) + "\n"


def _fitting(numbers: list[int], texts: Sequence[str], most: int) -> list[int]:
    """Leave out every second line, never the first and the last, until the others fit or no more can go."""
    while len(numbers) > 2 and sum(len(texts[number]) for number in numbers) > most:
        numbers = [*numbers[:-1:2], numbers[-1]]
        if len(numbers) == 3:  # the middle one stays forever otherwise
            numbers = numbers if sum(len(texts[number]) for number in numbers) <= most else [numbers[0], numbers[-1]]
    return list(numbers)


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
