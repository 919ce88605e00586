"""What a run needs besides its model: looked at before any weights load, which may take minutes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from saei.data.base import Split, Task
from saei.errors import ConfigError, nearest
from saei.objectives.base import NEEDS, Objective


def check_data(task: Task, splits: Sequence[Split] = ("train", "eval")) -> None:
    """Read the tables of a task: their files, their columns, and that there are rows.

    Raises:
        DataError: If the data cannot be used.
    """
    for split in splits:
        task.size(split)


def check_objective(objective: Objective) -> None:
    """Refuse an objective that asks for what the update cannot compute.

    Raises:
        ConfigError: Naming the need and the known ones.
    """
    for need in sorted(objective.needs - NEEDS):
        raise ConfigError(
            "An objective and its terms need what the update computes.",
            reason=f"'{objective.name()}' asks for '{need}'.",
            remedy=nearest(need, NEEDS),
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written or made; nothing is.

    Raises:
        ConfigError: Naming what stands in the way.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        reason = f"{existing} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} cannot be written"
    else:
        return
    raise ConfigError(
        "Results are written into a folder.", reason=f"{reason}.", remedy="Give another --output, or set output.root."
    )
