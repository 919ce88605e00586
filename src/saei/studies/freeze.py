"""Fixing a study before its runs, and what makes it exploratory.

A study is frozen by a commit that holds its file. The seeds of its bases and runs derive from the hash of that commit,
which nobody knows before: they cannot be chosen by what came of them. Every run that counts has to be made by the code
of that commit, and what decides afterwards has to be what it was: the file, the gates of bases, the statistics.
Otherwise the study is exploratory. So its runs may go on in a worktree at the commit, while the code moves on
elsewhere.
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

APART = (
    "cli",
    "report",
    "testing",
    "studies/shipped",
    "studies/display.py",
    "studies/headlines.py",
    "studies/measures.py",
    "studies/outcome.py",
    "studies/page.py",
    "studies/sentences.py",
    "studies/template.yaml",
)
"""Parts of the code that no run's process imports, and other studies: runs are the same whatever changes there."""

DECIDING = (
    "builtin",
    "evaluation/statistics",
    "studies/declarations.py",
    "studies/execution.py",
    "studies/measures.py",
    "studies/outcome.py",
    "studies/plan.py",
    "studies/record.py",
    "studies/statistics",
)
"""Parts of the code that say which bases and runs count, what is kept of them, and what follows."""


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
    folder_of_file = read.file.parent
    commit = _git(folder_of_file, "rev-parse", "HEAD")
    if commit is None or _git(folder_of_file, "ls-files", "--error-unmatch", "--", read.file.name) is None:
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


def exploratory(read: StudyFile, folder: Path, ledger: Ledger, *, deciding: bool = True) -> list[str]:
    """Return why a study is exploratory, one reason each; empty for a study that was declared before its runs.

    It is asked of the code that says it: the statistics of a worktree at the commit are those of the commit.

    Args:
        read: The study.
        folder: Where it is kept.
        ledger: Its ledger.
        deciding: Look whether the gate and the statistics of this code are those of the commit.
    """
    reasons = []
    if read.quick:
        reasons.append("--quick tries whether everything works")
    if read.assignments:
        reasons.append("--set changed what the file declares")
    frozen = read_frozen(folder)
    if frozen is None:
        return [*reasons, "it is not frozen (`saei study freeze`)"]
    content = _git_bytes(read.file.parent, "show", f"{frozen.commit}:./{read.file.name}")
    if content is None:
        return [*reasons, "the commit that froze it is not in this repository"]
    if hashlib.sha256(content).hexdigest() != read.sha256:
        reasons.append("its file has changed since it was frozen")
    if deciding and _differing(read.file, frozen.commit, parts=DECIDING):
        reasons.append("the gate or the statistics have changed since it was frozen")
    return reasons + _reasons_of_runs(read.file, frozen, ledger)


def _reasons_of_runs(file: Path, frozen: Frozen, ledger: Ledger) -> list[str]:
    """Return what keeps runs under a freeze from counting, by how each of their processes was started."""
    lines = ledger.lines()
    starts = [line for line in lines if line["event"] == STARTED and line.get("frozen")]
    reasons = []
    if any((line["frozen"], line.get("study_sha256")) != (frozen.commit, frozen.sha256) for line in starts):
        reasons.append("a run was started under another freeze or with a changed file")
    noted = {line["run"] for line in starts}
    taken = [line for line in lines if "starts" in line and line.get("frozen") and line["run"] not in noted]
    if any(not line["starts"] for line in taken):
        reasons.append("a run was taken from elsewhere, and nobody noted how it was started")
    elsewhere = [start for line in taken for start in line["starts"]]
    if any(start.get("dirty") for start in (*starts, *elsewhere)):
        reasons.append("a run was started with changes that no commit holds")
    commits = {start.get("commit") for start in (*starts, *elsewhere)} - {frozen.commit}
    if not all(_same_code(file, frozen.commit, commit) for commit in commits):
        reasons.append("a run was made by other code than that of the commit")
    return reasons


def revision(file: Path) -> str | None:
    """Return the commit that the code is at, None outside of a repository.

    Where the code is no part of the study's repository, it is the commit that the study's file is at.
    """
    return _git(CODE if _same_repository(file) else file.parent, "rev-parse", "HEAD")


def changes(file: Path, commit: str) -> list[str]:
    """Return which files of the code and of a study differ from a commit, or are not in git.

    The code counts where it is in the study's repository, if only in another worktree of it; elsewhere its version
    stands in each run.
    """
    return [*_differing_below(file.parent, commit, [file.name]), *_differing(file, commit)]


def _differing(file: Path, commit: str, parts: Sequence[str] = (".",)) -> list[str]:
    """Return which files of some parts of the code differ from a commit, or are not in git."""
    return _differing_below(CODE, commit, parts) if _same_repository(file) else []


def _differing_below(folder: Path, commit: str, parts: Sequence[str]) -> list[str]:
    differing = _git(folder, "diff", "--name-only", commit, "--", *parts)
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "--", *parts) or ""
    # A commit that git does not know differs in everything.
    return [*(parts if differing is None else differing.splitlines()), *new.splitlines()]


def _same_code(file: Path, commit: str, other: str | None) -> bool:
    """Return whether two commits have the same code, as far as it touches runs."""
    if not _same_repository(file):
        return True
    apart = [f":(exclude){part}" for part in APART]
    return other is not None and _git(CODE, "diff", "--name-only", commit, other, "--", ".", *apart) == ""


def _same_repository(file: Path) -> bool:
    """Return whether the code is in a study's repository, in the same worktree or in another one."""
    words = ("rev-parse", "--path-format=absolute", "--git-common-dir")
    of_study = _git(file.parent, *words)
    return of_study is not None and of_study == _git(CODE, *words)


def _git(folder: Path, *words: str) -> str | None:
    output = _git_bytes(folder, *words)
    return None if output is None else output.decode("utf-8", "replace").strip()


def _git_bytes(folder: Path, *words: str) -> bytes | None:
    """Return what git says in a folder, None where it refuses or there is none."""
    command: Sequence[str] = ("git", "-C", str(folder.resolve()), *words)
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
