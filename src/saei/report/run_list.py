"""Runs as one lists them: what each is, how far it got, what it reached and what it takes on disk.

Nothing here imports torch, and of a run's metrics only the last lines are read: hundreds of runs take a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from saei.config.aliases import ALIASES
from saei.config.flat import flat
from saei.config.format import without_removed
from saei.config.yaml import read_yaml
from saei.errors import ConfigError, SaeiError
from saei.runtime.files import json_lines, lines_from_end
from saei.runtime.lock import is_written

RUNNING, FINISHED, INTERRUPTED, DAMAGED = "running", "finished", "interrupted", "damaged"

COLUMNS = (
    *("run", "model", "task", "sampler", "attack", "selector"),
    *("steps", "accuracy", "entropy", "started", "size", "state"),
)
"""What is known of every run, in the order in which it is shown."""

DEPTH = 3
"""Folders below the one that is searched, such as ``runs/demo/bars/saei``."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run.

    Attributes:
        path: Its folder.
        name: The folder as it is listed, relative to the one that was searched.
        config: Its configuration by dotted paths, empty if it cannot be read.
        problem: Why it cannot be read, else empty.
        step: Steps done.
        accuracy: Sampled accuracy at the last evaluation, None before the first.
        entropy: Probe entropy there, in nats per token.
        started: When it began; for runs of older versions, which do not say so, when its oldest file was written.
        size: Bytes on disk.
        state: Whether a process writes it, all of its steps are done, or neither.
    """

    path: Path
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    step: int = 0
    accuracy: float | None = None
    entropy: float | None = None
    started: datetime | None = None
    size: int = 0
    state: str = DAMAGED

    @property
    def steps(self) -> int:
        """Steps of the whole run, 0 if unknown."""
        steps = self.config.get("training.steps")
        return steps if isinstance(steps, int) else 0

    def column(self, name: str) -> Any:
        """Return what stands in one of ``COLUMNS``, None for nothing."""
        if name in ("attack", "selector"):
            return self._strategies(name)
        path = {"model": "model.path", "task": "task.type", "sampler": "sampler.type"}.get(name)
        return (
            getattr(self, {"run": "name", "steps": "step"}.get(name, name)) if path is None else self.config.get(path)
        )

    def value(self, path: str) -> Any:
        """Return a column or a field of the configuration, None where the run has no such field."""
        if path in COLUMNS:
            return self.column(path)
        first, dot, rest = path.partition(".")
        full = ALIASES.get(first, first) + dot + rest
        return self.config.get(full, self.config.get(f"{full}.type"))

    def _strategies(self, kind: str) -> str | None:
        """Return the attacks or selectors of all interventions; ``arms`` may have several."""
        ends = f".intervention.{kind}.type"
        names = [str(v) for path, v in self.config.items() if path.startswith("sampler.") and path.endswith(ends)]
        return " + ".join(dict.fromkeys(names)) or None


def find_runs(places: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the folders of runs, each with the name that it is listed by.

    Args:
        places: Folders of runs, or folders that have some below them.

    Raises:
        ConfigError: If a folder does not exist.
    """
    names: dict[Path, str] = {}
    for place in places:
        place = place.expanduser()
        if not place.is_dir():
            raise ConfigError(
                "Runs are listed from a folder.",
                reason=f"There is no folder {place}.",
                remedy="Name the folder that your runs are in; `saei train` writes into runs/.",
            )
        if (place / "config.yaml").is_file():
            others = [other.name for other in places if other.expanduser() != place]
            names.setdefault(place, str(place) if place.name in others else place.name)
        else:
            for folder in _below(place, DEPTH):
                names.setdefault(folder, str(folder.relative_to(place)))
    return list(names.items())


def _below(folder: Path, depth: int) -> Iterable[Path]:
    """Yield the runs below a folder; there is none within a run."""
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[:1] != ".")
    except OSError:  # not readable for this user
        return
    for name in entries:
        inner = folder / name
        if (inner / "config.yaml").is_file():
            yield inner
        elif depth > 1:
            yield from _below(inner, depth - 1)


def summarise(path: Path, name: str) -> RunSummary:
    """Return what is known of a run, as far as its files are whole."""
    sizes, oldest = [], None
    for folder, _, files in os.walk(path):
        for file in files:
            try:
                status = os.lstat(os.path.join(folder, file))
            except OSError:  # a temporary file that is gone meanwhile
                continue
            sizes.append(status.st_size)
            oldest = status.st_mtime if oldest is None else min(oldest, status.st_mtime)
    began = None if oldest is None else datetime.fromtimestamp(oldest).astimezone()
    step, evaluated = _last_lines(path / "metrics.jsonl")
    summary = RunSummary(
        path,
        name,
        step=step,
        accuracy=_number(evaluated, "eval/accuracy"),
        entropy=_number(evaluated, "probe/entropy"),
        started=began,
        size=sum(sizes),
    )
    try:
        record = read_yaml(path / "config.yaml", quick=True, until="versions")
        if not isinstance(record.get("config"), Mapping):
            return replace(summary, problem=f"{path / 'config.yaml'} has no section `config`.")
        config, _ = without_removed(record, where=str(path))
    except SaeiError as error:
        return replace(summary, problem=error.reason)
    summary = replace(summary, config=flat(config), started=_time(record.get("started")) or began)
    if is_written(path):
        return replace(summary, state=RUNNING)
    return replace(summary, state=FINISHED if summary.steps and step >= summary.steps else INTERRUPTED)


def _last_lines(metrics: Path) -> tuple[int, Mapping[str, Any]]:
    """Return the last step of a run and the metrics of its last evaluation."""
    step: int | None = None
    for line in lines_from_end(metrics):
        if step is not None and b'"eval/accuracy"' not in line:
            continue
        for _, values in json_lines(line):
            number = None if values is None else values.get("step")
            if values is None or not isinstance(number, int):
                continue
            step = number if step is None else step
            if "eval/accuracy" in values:
                return step, values
    return step or 0, {}


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else None


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
