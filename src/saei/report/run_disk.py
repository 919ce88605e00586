"""What runs take on disk, by what it is for, and deleting what the user names."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from saei.errors import CheckpointError, ConfigError, nearest
from saei.runtime.lock import FolderLock

_CHECKPOINT = re.compile(r"(?:step|checkpoint)-(\d+)", re.ASCII)
"""Of saei and of TRL."""

PARTS: Mapping[str, str] = {
    "old-checkpoints": "all checkpoints but the newest and the best; the run can still go on",
    "checkpoints": "all checkpoints; the run cannot go on, nor be evaluated or exported",
    "samples": "what was kept for people to look at: responses, views and pictures",
    "run": "everything",
}
"""What of a run can be deleted, and what that means."""

_SAMPLES = ("samples.jsonl", "views.jsonl", "images", "samples")


def costs(run: Path) -> dict[str, int]:
    """Return the bytes of a run's newest and older checkpoints, of its samples, and of all else."""
    newest, older = _checkpoints(run)
    sizes = {
        "newest checkpoint": sum(map(_size, newest)),
        "old-checkpoints": sum(map(_size, older)),
        "samples": sum(_size(run / name) for name in _SAMPLES),
    }
    return {**sizes, "rest": _size(run) - sum(sizes.values())}


def paths_of(run: Path, part: str) -> list[Path]:
    """Return the files and folders that a part of a run consists of.

    Raises:
        ConfigError: If there is no such part.
    """
    if part not in PARTS:
        raise ConfigError(f"'{part}' is no part of a run that can be deleted.", remedy=nearest(part, PARTS))
    newest, older = _checkpoints(run)
    if part == "run":
        return [run]
    if part == "samples":
        return [run / name for name in _SAMPLES if os.path.lexists(run / name)]
    return older if part == "old-checkpoints" else [*older, *newest]


def delete(run: Path, part: str) -> int:
    """Delete a part of a run, and return how many bytes that freed.

    Raises:
        ConfigError: If there is no such part, or a process writes the run.
        CheckpointError: If the folder holds no run, or the disk refuses.
    """
    if not (run / "config.yaml").is_file() or run.is_symlink():
        raise CheckpointError(
            "Only what belongs to a run is deleted.",
            reason=f"{run} is {'a link' if run.is_symlink() else 'no run: it has no config.yaml'}.",
            remedy="Name the folder of a run.",
        )
    paths = paths_of(run, part)
    freed = sum(map(_size, paths))
    with FolderLock(run):
        try:
            for path in paths:
                _remove(path)
        except OSError as error:
            raise CheckpointError(
                "What is deleted has to be writable.", reason=f"{run}: {error}.", remedy="See who owns it."
            ) from error
    return freed


def _checkpoints(run: Path) -> tuple[list[Path], list[Path]]:
    """Return the checkpoints that a run goes on from or names as its best, and the older ones."""
    folder = run / "checkpoints"
    named = [path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
    numbers = {path: int(parts[1]) for path in named if (parts := _CHECKPOINT.fullmatch(path.name))}
    complete = [path for path in numbers if (path / "trainer.pt").is_file()]
    newest = max(complete or numbers, key=lambda path: numbers[path], default=None)
    best = _best(run)
    needed = [path for path in numbers if path in (newest, best)]
    return needed, [path for path in named if path not in needed]


def _best(run: Path) -> Path | None:
    try:
        return run / str(json.loads((run / "best.json").read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or a damaged one
        return None


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder; links count as themselves."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(Path(folder) / file) for folder, _, files in os.walk(path) for file in files)
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Renamed first, so that a process that is killed meanwhile leaves no half of one that looks whole.
        hidden = path.with_name(f".{path.name}.old")
        os.replace(path, hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)
