"""Checksums of a folder's files: a file that changed since it was written is reported when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from saei.errors import CheckpointError

CHECKSUMS = "checksums.json"
REMEDY = (
    "Delete this checkpoint; the run then goes on from the one before. Without one before, start a new run, under "
    "another name."
)
"""What to do about a checkpoint that cannot be read."""


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json`` with the SHA-256 of every file below a folder, and flush all of them to the disk.

    Raises:
        OSError: If the disk refuses; some disks report it only when they are flushed.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS)
    sums = {file.relative_to(folder).as_posix(): digest for file, digest in zip(files, _digests(files), strict=True)}
    for file in files:
        _sync(file)
    (folder / CHECKSUMS).write_text(json.dumps({"sha256": sums}, indent=2) + "\n", encoding="utf-8")
    _sync(folder / CHECKSUMS)


def verify_checksums(folder: Path, concerns: Callable[[str], bool] = lambda name: True) -> None:
    """Compare the files of a folder with its ``checksums.json``; a folder without one is taken as it is.

    Args:
        folder: The folder.
        concerns: Whether to check the file of a name; callers check the files that they are about to read.

    Raises:
        CheckpointError: Naming the files that are damaged or missing.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        return
    try:
        everything = json.loads(file.read_bytes())["sha256"]
        sums = {folder / name: str(digest) for name, digest in everything.items() if concerns(name)}
        digests = _digests(list(sums))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{file.name}: {type(error).__name__}: {error}") from error
    wrong = [path for path, digest in zip(sums, digests, strict=True) if sums[path] != digest]
    if wrong:
        names = ", ".join(path.relative_to(folder).as_posix() for path in wrong)
        raise _damaged(folder, f"{names} differ{'s' if len(wrong) == 1 else ''} from what was written")


def _digests(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of files, an empty text for one that is missing; hashing releases Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(_digest, files))


def _digest(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        "A checkpoint's files have to be those that were written.",
        reason=f"{folder}: {reason}.",
        remedy=f"{REMEDY} If you changed a file on purpose, delete its {CHECKSUMS}.",
    )
