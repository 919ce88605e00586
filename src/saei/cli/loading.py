"""What is said while a model loads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from saei.config.sections import BUILTIN
from saei.runtime.progress import seconds

if TYPE_CHECKING:
    from saei.config.run import RunConfig


def loading(config: RunConfig, *, plain: bool = False) -> AbstractContextManager[None]:
    """Return a context in which it is shown that a model loads, and for how long.

    Args:
        config: Names the model.
        plain: Plain lines also on a terminal.
    """
    path = config.model.path
    local = path.partition(":")[0] == BUILTIN or Path(path).expanduser().exists()
    return seconds(f"Loading {path}", still=plain or not local)  # a hub's download has bars of its own
