"""Doing a study: its bases, then its runs, shared with other machines, noted in the ledger and recorded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saei.errors import ConfigError, SaeiError, nearest
from saei.runtime.files import read_jsonl
from saei.runtime.stopwatch import PHASES
from saei.studies.bases import build_all
from saei.studies.claims import Claims
from saei.studies.final.settings import FINAL
from saei.studies.freeze import Frozen, changes, exploratory, read_frozen, revision
from saei.studies.ledger import ABORTED, FAILED, FINISHED, STARTED, Ledger
from saei.studies.plan import Base, StudyRun, bases_of, cpu_hours, origin_of, plan_runs
from saei.studies.record import is_recorded, record, recorded_metrics
from saei.studies.runs import is_complete, prepare
from saei.studies.scheduler import RunHooks, RunStatus, State
from saei.studies.study import StudyFile, training_responses


@dataclass(frozen=True, slots=True)
class StudyPlaces:
    """Where a study is.

    Attributes:
        root: Folder of the runs, bases and claims of all studies; machines that share it share the work.
        keep: Folder of what is kept of this study: ledger, freeze and records.
    """

    root: Path
    keep: Path

    @property
    def ledger(self) -> Ledger:
        """The study's ledger."""
        return Ledger(self.keep, self.root / "claims" / "ledger")


def places_of(read: StudyFile, root: Path, keep: Path | None) -> StudyPlaces:
    """Return where a study is; by default it is kept under ``docs/studies``, that of ``--quick`` with its runs."""
    if read.quick:
        root = root / "quick"
        return StudyPlaces(root, keep or root / "kept" / read.study.name)
    return StudyPlaces(root, keep or Path("docs/studies") / read.study.name)


class Execution:
    """A study with the state of its runs.

    Args:
        read: The study.
        places: Where it is.
    """

    def __init__(self, read: StudyFile, places: StudyPlaces) -> None:
        self.read, self.places = read, places
        self.ledger = places.ledger
        self.frozen: Frozen | None = None if read.quick else read_frozen(places.keep)
        self.origin = origin_of(read, self.frozen)

    def bases(self) -> list[Base]:
        """Return the bases as they stand; those of a recipe change while it rejects some."""
        return bases_of(self.read, self.places.root, self.origin)

    def runs(self) -> list[StudyRun]:
        """Return all runs."""
        return plan_runs(self.read, self.places.root, self.origin)

    def exploratory(self) -> list[str]:
        """Return why the study is exploratory; empty if it is not."""
        return exploratory(self.read, self.places.keep, self.ledger)

    def left(self) -> list[StudyRun]:
        """Return the runs that are not recorded yet."""
        return [run for run in self.runs() if not is_recorded(run, self.places.keep)]

    def cpu_hours(self) -> float | None:
        """Return about how many CPU-hours are left, None where no run's time is known."""
        return cpu_hours(self.left(), self.ledger.lines())

    def run_of(self, identity: str) -> StudyRun:
        """Return the run that is known by a hash.

        Raises:
            ConfigError: If there is none.
        """
        runs = {run.identity: run for run in self.runs()}
        if identity not in runs:
            raise ConfigError(
                "--only takes the hash of a run of this study.",
                reason=nearest(identity, runs),
                remedy="--list-jobs prints them; give the same --set and --quick, too.",
            )
        return runs[identity]

    def build_bases(self, *, jobs: int, say: Callable[[str], None], only: Base | None = None) -> bool:
        """Build the bases that are missing, or a single one, and return whether all are there.

        Raises:
            ConfigError: If the single one is rejected.
            TrainingError: If one could not be built.
        """
        self.places.root.mkdir(parents=True, exist_ok=True)
        with self._claims() as claims:
            wanted = self.bases if only is None else lambda: [only]
            built = build_all(wanted, jobs=jobs, claims=claims, ledger=self.ledger, say=say)
        if only is not None and only.accepted is False:
            raise ConfigError(
                "A run starts from a base that its gate accepts.",
                reason=f"{only.known_as} is rejected, and the next candidate takes its place.",
                remedy="--list-jobs prints the commands of the runs as they are now.",
            )
        return built

    @contextmanager
    def open(self, runs: Sequence[StudyRun]) -> Iterator[tuple[list[RunStatus], RunHooks]]:
        """Yield how far some runs are, and what is to be done when one begins or ends."""
        statuses = [self._status(run) for run in runs]
        with self._claims() as claims:
            hooks = _Hooks(self, claims, dict(zip(map(id, statuses), runs, strict=True)))
            try:
                yield statuses, hooks
            finally:
                hooks.abort(statuses)

    @contextmanager
    def _claims(self) -> Iterator[Claims]:
        claims = Claims(self.places.root / "claims")
        try:
            yield claims
        finally:
            claims.release_all()

    def _status(self, run: StudyRun) -> RunStatus:
        status = RunStatus(run.planned, run.planned.folder)
        if is_recorded(run, self.places.keep):
            status.state, status.already, status.step = State.complete, True, status.steps
            evaluations = [line for line in recorded_metrics(run, self.places.keep) if "eval/accuracy" in line]
            status.evaluation = evaluations[-1] if evaluations else {}
        else:
            status.look()
        return status


class _Hooks(RunHooks):
    """Claims a run before it begins, notes what becomes of it, and records it once it is complete."""

    def __init__(self, execution: Execution, claims: Claims, runs: dict[int, StudyRun]) -> None:
        self._execution, self._claims, self._runs = execution, claims, runs
        self._keep, self._ledger = execution.places.keep, execution.ledger
        commit = revision(execution.read.file)
        dirty = commit is not None and bool(changes(execution.read.file, commit))
        self._made_with = {"commit": commit, "dirty": dirty, "study_sha256": execution.read.sha256}
        self._made_with["frozen"] = execution.frozen.commit if execution.frozen else None

    def begin(self, status: RunStatus) -> bool:
        run = self._runs[id(status)]
        if not self._claims.take(run.identity):
            status.look()
            status.state = State.elsewhere
            return False
        if is_recorded(run, self._keep):  # by another machine, since this one looked
            self._done(status, run)
            return False
        if is_complete(status.folder, status.steps):  # for another study, or before its record was written
            status.look()
            self._finish(status, run, reused=True)
            self._done(status, run)
            return False
        try:
            status.folder = prepare(run.planned)
        except SaeiError as error:
            self._ledger.add(FAILED, run=run.identity, arm=run.arm, base=run.base.known_as, why=str(error)[:300])
            status.state = State.failed
            self._claims.release(run.identity)
            return False
        self._ledger.add(
            STARTED,
            run=run.identity,
            arm=run.arm,
            base=run.base.known_as,
            repeat=run.repeat,
            seed=run.planned.config.seed,
            step=status.step,
            **self._made_with,
        )
        return True

    def end(self, status: RunStatus) -> None:
        run = self._runs[id(status)]
        if status.state is State.complete:
            self._finish(status, run)
        else:
            event = FAILED if status.state is State.failed else ABORTED
            self._ledger.add(event, run=run.identity, arm=run.arm, base=run.base.known_as, step=status.step)
        self._claims.release(run.identity)

    def abort(self, statuses: Sequence[RunStatus]) -> None:
        """Note the runs that an error or a second signal ended."""
        for status in statuses:
            if status.state is State.running:
                status.state = State.stopped
                self.end(status)

    def _finish(self, status: RunStatus, run: StudyRun, *, reused: bool = False) -> None:
        record(run, status.folder, self._keep)
        seconds = _seconds(status.folder)
        self._ledger.add(
            FINISHED,
            run=run.identity,
            arm=run.arm,
            base=run.base.known_as,
            repeat=run.repeat,
            seed=run.planned.config.seed,
            reused=reused,
            responses=run.planned.responses,
            training_responses=training_responses(run.planned.config),
            seconds=round(seconds, 1),
        )

    def _done(self, status: RunStatus, run: StudyRun) -> None:
        status.state, status.already, status.step = State.complete, True, status.steps
        self._claims.release(run.identity)


def _seconds(folder: Path) -> float:
    """Return the wall-clock seconds of a run's steps and evaluations; a small model keeps one core busy in them."""
    lines = read_jsonl(folder / "metrics.jsonl")
    training = float(sum(line.get(f"time/{phase}") or 0.0 for line in lines for phase in PHASES))
    file = folder / FINAL
    return training + (float(json.loads(file.read_bytes())["final/seconds"]) if file.is_file() else 0.0)


def job_command(execution: Execution, run: StudyRun, options: Sequence[str]) -> list[str]:
    """Return the command that does one run, and builds its base first where that is missing.

    Args:
        execution: The study.
        run: The run.
        options: Of ``saei study run``, without ``--jobs`` and ``--list-jobs``.
    """
    return [
        sys.executable,
        "-m",
        "saei.cli",
        "study",
        "run",
        str(execution.read.file),
        "--only",
        run.identity,
        *options,
    ]
