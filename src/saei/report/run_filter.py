"""Some of the runs of a list, and their order: conditions and sort keys by column or field."""

from __future__ import annotations

import fnmatch
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from saei.errors import ConfigError, nearest, shown
from saei.report.run_list import COLUMNS, RunSummary

_CONDITION = re.compile(r"([^=<>!]+)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


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
