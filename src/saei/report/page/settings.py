"""What a run's settings are beside the defaults, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from saei.config.changes import Change, changes
from saei.report.page.folder import RunFolder

NOT_REPEATED = ("output.name", "output.root")
"""Where a run writes is up to who repeats it."""


def changed_settings(folder: RunFolder) -> list[Change]:
    """Return the settings that were not the defaults, as the run wrote them down.

    Of a run by an earlier version, which did not, they are compared with the defaults of this one.
    """
    written = folder.record.get("changes")
    if isinstance(written, list):
        rows = [row for row in written if isinstance(row, list) and len(row) == 3]
        return [Change(*map(str, row)) for row in rows]
    return changes(folder.config) if folder.config else []


def command(folder: RunFolder, changed: Sequence[Change]) -> str:
    """Return the command that repeats a run, with every setting that is not the default."""
    plugins = folder.config.get("plugins") or ()
    options = [f"--plugin {shlex.quote(str(plugin))}" for plugin in plugins]
    # A strategy's name comes before its fields, which would otherwise be those of another one.
    ordered = sorted(changed, key=lambda change: (not change.path.endswith(".type"), change.path.count(".")))
    options += [
        f"--set {shlex.quote(f'{change.path}={change.value}')}"
        for change in ordered
        if change.path not in (*NOT_REPEATED, "plugins")
    ]
    return " \\\n  ".join(["saei train", *options])
