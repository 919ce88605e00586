"""Runs as one lists them: what each is, how far it got, what it reached and what it takes on disk.

Nothing here imports torch, and of a run's metrics only the last lines are read: hundreds of runs take a second.
"""

from __future__ import annotations

import fnmatch
import json
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from saei.config.aliases import ALIASES
from saei.config.flat import flat
from saei.config.format import without_removed
from saei.config.yaml import read_yaml
from saei.errors import ConfigError, SaeiError, nearest, shown
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

OF_NO_METHOD = ("output.root", "output.name")
"""Fields that two runs differ in even if nothing else is different."""

_CONDITION = re.compile(r"([^=<>!]+)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


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


def matching(runs: Sequence[RunSummary], conditions: Sequence[str]) -> list[RunSummary]:
    """Return the runs that meet all conditions.

    Args:
        runs: Any runs.
        conditions: Such as ``state=finished``, ``task.type=b*``, ``attack.step!=2/255`` or ``accuracy>0.5``: a column
            or a field, a sign, and a number or a pattern of text.

    Raises:
        ConfigError: If a condition has no sign, or none of the runs has such a field.
    """
    for condition in conditions:
        parts = _CONDITION.fullmatch(condition)
        if parts is None:
            raise ConfigError(
                "A condition is a field, a sign and a value.",
                reason=f"Got '{shown(condition)}'.",
                remedy="For example state=finished, attack.step=4/255 or 'accuracy>0.5'.",
            )
        path, sign, wanted = (part.strip() for part in parts.groups())
        check_field(runs, path)
        runs = [run for run in runs if _meets(run.value(path), sign, wanted)]
    return list(runs)


def _meets(value: Any, sign: str, wanted: str) -> bool:
    if sign in ("=", "!="):
        # As it is written in files: `true`, not Python's `True`.
        text = "null" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
        return fnmatch.fnmatchcase(text, wanted) == (sign == "=")
    if isinstance(value, datetime):
        return _COMPARED[sign](value.isoformat(), wanted)
    try:
        return value is not None and _COMPARED[sign](float(value), float(wanted))
    except ValueError:
        return False


def check_field(runs: Sequence[RunSummary], path: str) -> None:
    """Refuse a field that is no column and that no run has.

    Raises:
        ConfigError: With the nearest name.
    """
    if path in COLUMNS or not runs or any(run.value(path) is not None for run in runs):
        return
    known = {*COLUMNS, *(name for run in runs for name in run.config)}
    raise ConfigError(f"None of the runs has a field '{shown(path)}'.", remedy=nearest(path, known))


def ordered(runs: Sequence[RunSummary], path: str, *, reverse: bool = False) -> list[RunSummary]:
    """Return the runs in the order of a column or a field; those without it come last."""
    check_field(runs, path)
    having = [run for run in runs if run.value(path) is not None]
    numeric = all(isinstance(run.value(path), int | float) for run in having)

    def key(run: RunSummary) -> tuple[Any, str]:
        value = run.value(path)
        return (value if numeric or isinstance(value, datetime) else str(value), run.name)

    return sorted(having, key=key, reverse=reverse) + [run for run in runs if run.value(path) is None]


def differing(runs: Sequence[RunSummary]) -> list[str]:
    """Return the fields in which configurations differ, by dotted path; where a run writes does not count.

    A field that only some of the runs have, because their strategies are others, counts if it differs among those.
    """
    readable = [run.config for run in runs if run.config]
    paths = dict.fromkeys(path for config in readable for path in config if path not in OF_NO_METHOD)
    values = {path: {json.dumps(setting(config, path)) for config in readable} - {"null"} for path in paths}
    return [path for path, different in values.items() if len(different) > 1]


def of_some_strategies(runs: Sequence[RunSummary]) -> int:
    """Return how many fields ``differing`` leaves out, because they belong to strategies that only some runs have."""
    of_all = set[str].intersection(*(set(run.config) for run in runs))
    of_some = {path for run in runs for path in run.config} - of_all
    return len(of_some - set(differing(runs)))


def setting(config: Mapping[str, Any], path: str) -> Any:
    """Return a field of a flat configuration: None where there is none, and ``…`` for a section of several fields."""
    if path in config:
        return config[path]
    return "…" if any(name.startswith(f"{path}.") for name in config) else None


def short(path: str) -> str:
    """Return a field's path as ``--set`` takes it, such as ``attack.step``."""
    for alias, full in sorted(ALIASES.items(), key=lambda item: -len(item[1])):
        if path.startswith(f"{full}."):
            return alias + path.removeprefix(full)
    return path
