"""A run's folder as a page reads it: as far as it is whole, with what is missing in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saei.config.yaml import read_yaml
from saei.errors import CheckpointError, ConfigError, SaeiError, shown
from saei.report.page.html import plural
from saei.runtime.files import json_lines
from saei.runtime.run_dir import RunDir
from saei.runtime.samples import GroupSample

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval

Line = Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class RunFolder:
    """What there is of a run.

    Attributes:
        path: Its folder.
        config: Its configuration as plain data; nothing that it names is imported.
        record: What ``config.yaml`` says besides: versions, parts, commit.
        lines: One per step, ascending.
        groups: Samples, in the order of steps.
        missing: What is not there or could not be read, in sentences.
    """

    path: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    lines: tuple[Line, ...]
    groups: tuple[GroupSample, ...]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.resolve().name

    @property
    def method(self) -> str:
        """Its task and method, such as ``lock-in, mixed (middle-third + pgd), grpo``."""
        task, sampler, objective = (type_name(setting(self.config, name)) for name in ("task", "sampler", "objective"))
        parts = [
            " + ".join(type_name(slots.get(name)) for name in ("selector", "attack"))
            for slots in interventions(self.config).values()
        ]
        slots = f" ({', '.join(parts)})" if parts else ""
        return f"{task}, {sampler}{slots}, {objective}"

    @property
    def title(self) -> str:
        """Its name, with task and method as far as they are known."""
        return f"{self.name}: {self.method}" if self.config else self.name

    @property
    def evaluated(self) -> list[Line]:
        """The lines of steps with an evaluation."""
        return [line for line in self.lines if value(line, "eval/accuracy") is not None]

    @property
    def steps(self) -> int | None:
        """The steps that were planned, None if the configuration does not say."""
        steps = setting(self.config, "training.steps")
        return steps if isinstance(steps, int) else None

    @property
    def last_step(self) -> int:
        """The last step done."""
        return int(self.lines[-1]["step"]) if self.lines else 0


def is_run(path: Path) -> bool:
    """Return whether a folder holds a run."""
    return (path / "config.yaml").is_file()


def read_folder(path: Path) -> RunFolder:
    """Return what there is of a run.

    Raises:
        CheckpointError: If the folder holds no run.
    """
    if not is_run(path):
        raise CheckpointError(
            "A run's folder has a config.yaml, an evaluation's a settings.json.",
            reason=f"{path} has neither.",
            remedy="Give one of the folders in your output folder.",
        )
    missing: list[str] = []
    run = RunDir(path)
    record: dict[str, Any] = {}
    config: dict[str, Any] = {}
    try:
        record = read_yaml(path / "config.yaml")
        config, _ = run.read()
    except (ConfigError, CheckpointError) as error:
        missing.append(f"The configuration could not be read: {shown(error.reason, 200)}")
    try:
        groups, problems = run.samples()
    except (SaeiError, OSError, ValueError, TypeError) as error:  # an older version's lines may hold anything
        groups, problems = [], [f"{type(error).__name__}: {shown(str(error), 200)}"]
    missing += [f"Samples could not be read: {problem}" for problem in problems]
    lines = _lines(path / "metrics.jsonl", missing)
    folder = RunFolder(path, config, record, tuple(lines), tuple(groups), ())
    missing += _incomplete(folder)
    return RunFolder(path, config, record, tuple(lines), tuple(groups), tuple(missing))


def _lines(file: Path, missing: list[str]) -> list[Line]:
    """Return the lines with a step, one for each; null stands for a number that was not finite."""
    try:
        read = [line for _, line in json_lines(file.read_bytes())]
    except OSError as error:
        missing.append(f"There are no metrics: {file.name}: {error.strerror}.")
        return []
    lines: dict[int, dict[str, Any]] = {}
    for line in read:
        if line is not None and isinstance(line.get("step"), int):  # TRL writes its last step's times in a second line
            lines.setdefault(line["step"], {}).update(line)
    broken = sum(line is None or not isinstance(line.get("step"), int) for line in read)
    if broken:
        missing.append(
            f"{plural(broken, 'line')} of {file.name} {'is' if broken == 1 else 'are'} damaged and left out."
        )
    return [lines[step] for step in sorted(lines)]


def _incomplete(folder: RunFolder) -> list[str]:
    missing = []
    if folder.steps is not None and folder.last_step < folder.steps:
        missing.append(
            f"The run has done {folder.last_step} of {folder.steps} steps: it is being written, or was stopped."
        )
    if not folder.groups:
        missing.append("No samples were kept, so there is no gallery.")
    elif not any(response.ids for group in folder.groups for response in group.responses):
        missing.append("An earlier version kept these samples: it wrote no tokens, choices and advantages.")
    if folder.lines and not folder.evaluated:
        missing.append("There is no evaluation yet.")
    return missing


def value(line: Line, name: str) -> float | None:
    """Return a number of a line, None if it has none or one that was not finite."""
    number = line.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return None
    return float(number)


def accuracy_interval(folder: RunFolder, line: Line) -> Interval | None:
    """Return the accuracy on held-out examples with the interval that `saei eval` prints, None if it is unknown."""
    from saei.evaluation.statistics.intervals import share_interval_from_error

    accuracy, error = value(line, "eval/accuracy"), value(line, "eval/accuracy_se")
    examples, responses = (setting(folder.config, f"evaluation.{name}") for name in ("examples", "responses"))
    if accuracy is None or error is None or not isinstance(examples, int) or not isinstance(responses, int):
        return None
    return share_interval_from_error(accuracy, error, examples, responses)


def setting(config: Mapping[str, Any], path: str) -> Any:
    """Return a setting by its dotted path, None without one."""
    here: Any = config
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here


def interventions(config: Any, path: str = "") -> dict[str, Mapping[str, Any]]:
    """Return the interventions of a configuration by their dotted paths."""
    if not isinstance(config, Mapping):
        return {}
    by_path = {}
    for name, inner in config.items():
        where = f"{path}.{name}" if path else str(name)
        if name == "intervention" and isinstance(inner, Mapping):
            by_path[where] = inner
        else:
            by_path |= interventions(inner, where)
    return by_path


def type_name(config: Any) -> str:
    """Return the name of a strategy in plain data."""
    return str(config.get("type", "?")) if isinstance(config, Mapping) else str(config)
