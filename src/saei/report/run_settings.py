"""In which settings runs differ, by dotted path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from saei.config.aliases import ALIASES
from saei.report.run_list import RunSummary

OF_NO_METHOD = ("output.root", "output.name")
"""Fields that two runs differ in even if nothing else is different."""


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
