"""Fixing a study before its runs, and what makes it exploratory.

A study is frozen by a commit that holds its file. The seeds of its bases and runs derive from the hash of that commit,
which nobody knows before: they cannot be chosen by what came of them. What changes afterwards in the file or in the
code makes the study exploratory.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import saei
from saei.errors import ConfigError
from saei.runtime.files import write_whole
from saei.studies.ledger import STARTED, Ledger
from saei.studies.study import StudyFile

FILE = "frozen.json"
UNFROZEN = "unfrozen"
"""What seeds derive from while a study is not frozen."""

CODE = Path(saei.__file__).parent


@dataclass(frozen=True, slots=True)
class Frozen:
    """How a study was when it was frozen.

    Attributes:
        commit: The commit that holds it.
        sha256: Of its file's content.
    """

    commit: str
    sha256: str


def read_frozen(folder: Path) -> Frozen | None:
    """Return how the study that is kept in a folder was frozen, None if it was not."""
    try:
        content = json.loads((folder / FILE).read_bytes())
        return Frozen(str(content["commit"]), str(content["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def freeze(read: StudyFile, folder: Path, ledger: Ledger) -> Frozen:
    """Freeze a study at the newest commit.

    Args:
        read: The study.
        folder: Where it is kept.
        ledger: Its ledger.

    Raises:
        ConfigError: If the file or the code has changes that are not committed, or runs of an earlier freeze exist.
            Runs from before any freeze do no harm: they had other seeds.
    """
    rule = "A study is frozen once, by a commit that holds its file."
    if any(line.get("frozen") for line in ledger.lines()):
        raise ConfigError(
            rule,
            reason=f"{ledger.file} has runs of an earlier freeze, whose results may be known.",
            remedy="Give the study another name, and it begins afresh; the old one stays exploratory.",
        )
    commit = revision(read.file)
    if commit is None or _git(read.file, "ls-files", "--error-unmatch", "--", read.file.name) is None:
        raise ConfigError(
            rule, reason=f"{read.file} is in no commit of a git repository.", remedy="`git add` and `git commit` it."
        )
    changed = changes(read.file, commit)
    if changed:
        raise ConfigError(
            rule, reason=f"Not committed: {', '.join(changed)}.", remedy="`git commit` or `git stash` them."
        )
    frozen = Frozen(commit, read.sha256)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"commit": commit, "sha256": read.sha256, "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z"}
    write_whole(folder / FILE, json.dumps(record, indent=2) + "\n")
    return frozen


def exploratory(read: StudyFile, folder: Path, ledger: Ledger) -> list[str]:
    """Return why a study is exploratory, one reason each; empty for a study that was declared before its runs."""
    reasons = []
    if read.quick:
        reasons.append("--quick tries whether everything works")
    if read.assignments:
        reasons.append("--set changed what the file declares")
    frozen = read_frozen(folder)
    if frozen is None:
        return [*reasons, "it is not frozen (`saei study freeze`)"]
    content = _git_bytes(read.file, "show", f"{frozen.commit}:./{read.file.name}")
    if content is None:
        reasons.append("the commit that froze it is not in this repository")
    elif hashlib.sha256(content).hexdigest() != read.sha256:
        reasons.append("its file has changed since it was frozen")
    if content is not None:
        code = [path for path in changes(read.file, frozen.commit) if Path(path).name != read.file.name]
        reasons += ["the code has changed since it was frozen"] * bool(code)
    starts = [line for line in ledger.lines() if line["event"] == STARTED and line.get("frozen")]
    if any(line.get("dirty") for line in starts):
        reasons.append("a run was started with changes that no commit holds")
    if any((line["frozen"], line.get("study_sha256")) != (frozen.commit, frozen.sha256) for line in starts):
        reasons.append("a run was started under another freeze or with a changed file")
    return reasons


def revision(file: Path) -> str | None:
    """Return the newest commit of the repository that a file is in, None outside of one."""
    return _git(file, "rev-parse", "HEAD")


def changes(file: Path, commit: str) -> list[str]:
    """Return which files of the code and of a study differ from a commit, or are not in git.

    The code counts where it is in the study's repository; elsewhere its version stands in each run.
    """
    places = [str(file.resolve()), *([str(CODE)] if _same_repository(file) else [])]
    differing = _git(file, "diff", "--name-only", commit, "--", *places) or ""
    new = _git(file, "ls-files", "--others", "--exclude-standard", "--", *places) or ""
    return [*differing.splitlines(), *new.splitlines()]


def _same_repository(file: Path) -> bool:
    top = _git(file, "rev-parse", "--show-toplevel")
    return top is not None and CODE.resolve().is_relative_to(Path(top).resolve())


def _git(file: Path, *words: str) -> str | None:
    output = _git_bytes(file, *words)
    return None if output is None else output.decode("utf-8", "replace").strip()


def _git_bytes(file: Path, *words: str) -> bytes | None:
    """Return what git says in the folder of a file, None where it refuses or there is none."""
    command: Sequence[str] = ("git", "-C", str(file.resolve().parent), *words)
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
