"""What ``saei eval --benchmark`` sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from saei.cli.options import NOT_EVALUATED, belongs_to_run, policy_config, task_flags

if TYPE_CHECKING:
    from saei.cli.reads import Reads
    from saei.config.run import RunConfig
    from saei.data.base import Task

OTHER_NAMES: Mapping[str, str] = {"mm-eureka": "mm-eureka-k12"}
"""Names of benchmarks that differ from those of their tasks."""


def benchmark_config(
    model: str,
    benchmark: str | None,
    *,
    task: str | None,
    data: str | None,
    split: str | None,
    assignments: list[str],
    plugins: list[str],
    reads: Reads,
    trust: bool = False,
) -> RunConfig:
    """Return the configuration of an evaluation on a benchmark; any task is one.

    The length that the task has for responses gives way to a run's own and to assignments.

    Raises:
        SaeiError: If there is no such benchmark, or options do not fit it.
    """
    from saei.config.overrides import nested
    from saei.config.registry import load

    flags = task_flags(task if benchmark is None else _task_of(benchmark, plugins), data)
    settings = [nested(path, value) for path, value in flags.items() if value is not None]
    left_out = NOT_EVALUATED
    read = partial(policy_config, model, settings, assignments, plugins, reads=reads, leave_out=left_out, trust=trust)
    name = read().task.type
    cls = cast("type[Task]", load("task", name))
    reporting = cls.reporting
    if split is not None:
        settings.append(_split(cls, split))
    if reporting.max_new_tokens is not None and not belongs_to_run(model):
        settings.append(nested("sampling.max_new_tokens", reporting.max_new_tokens))
    return read()


def _task_of(benchmark: str, plugins: list[str]) -> str:
    from saei.config.registry import entries, load_plugin
    from saei.errors import ConfigError, nearest

    for plugin in plugins:
        load_plugin(plugin)
    name = OTHER_NAMES.get(benchmark, benchmark)
    known = {entry.name for entry in entries("task")}
    if name not in known:
        raise ConfigError(
            "A benchmark is known by its name; every task is one.",
            reason=f"Got '{benchmark}'.",
            remedy=nearest(benchmark, known | set(OTHER_NAMES)),
        )
    return name


def _split(cls: type[Task], split: str) -> dict[str, Any]:
    """Return the setting that evaluates a task on a split of its data."""
    from saei.config.overrides import nested
    from saei.errors import ConfigError

    task, reporting = cls.name(), cls.reporting
    if reporting.split_field.partition(".")[0] not in cls.Config.model_fields:
        raise ConfigError(
            "--split names a split of the data.",
            reason=f"'{task}' makes its examples; it is evaluated on its split eval.",
            remedy="Leave --split out.",
        )
    if split in reporting.unlabelled:
        raise ConfigError(
            "Scores are computed here, which takes the right answers.",
            reason=f"Those of the split {split} of {task} are not public.",
            remedy="Leave --split out; the data set's authors score that one.",
        )
    return nested(f"task.{reporting.split_field}", split)
