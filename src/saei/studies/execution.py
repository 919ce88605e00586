"""Doing a study: its bases, then its runs, shared with other machines, noted in the ledger and recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from saei.errors import ConfigError, nearest
from saei.studies.bases import build_all
from saei.studies.claims import Claims
from saei.studies.freeze import Frozen, exploratory, read_frozen
from saei.studies.hooks import StudyHooks
from saei.studies.ledger import ACCEPTED, FINISHED, REJECTED, Ledger
from saei.studies.plan import Base, StudyRun, cpu_hours, lineage, origin_of, plan_runs, tried_bases
from saei.studies.record import is_recorded, recorded_metrics
from saei.studies.scheduler import RunHooks, RunStatus, State
from saei.studies.study import StudyFile


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
    def page(self) -> Path:
        """The study's page, beside the folder."""
        return self.keep.with_name(f"{self.keep.name}.md")

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

    @property
    def _as_frozen(self) -> bool:
        """Whether the study is as it was frozen: what its ledger has then counts, though the code has moved on."""
        frozen = self.frozen
        return frozen is not None and frozen.sha256 == self.read.sha256 and not self.read.assignments

    def tried_bases(self) -> list[Base]:
        """Return the bases in the order in which they are tried, those that the gate rejected among them."""
        noted = self.ledger.verdicts()
        if self._as_frozen:
            noted |= {lineage(known_as): accepted for known_as, accepted in noted.items()}
        return tried_bases(self.read, self.places.root, self.origin, noted)

    def bases(self) -> list[Base]:
        """Return the bases as they stand; those of a recipe change while it rejects some."""
        return [base for base in self.tried_bases() if base.accepted is not False]

    def runs(self) -> list[StudyRun]:
        """Return all runs."""
        runs = plan_runs(self.read, self.places.root, self.origin, self.bases())
        if not self._as_frozen:
            return runs
        finished: dict[tuple[object, ...], str] = {
            (line["arm"], lineage(line["base"]), line["repeat"], line.get("seed")): line["run"]
            for line in self.ledger.lines()
            if line["event"] == FINISHED
        }

        def key(run: StudyRun) -> tuple[object, ...]:
            return run.arm, lineage(run.base.known_as), run.repeat, run.planned.config.seed

        return [replace(run, finished_as=finished.get(key(run))) for run in runs]

    def exploratory(self, *, deciding: bool = True) -> list[str]:
        """Return why the study is exploratory; empty if it is not. See ``saei.studies.freeze.exploratory``."""
        return exploratory(self.read, self.places.keep, self.ledger, deciding=deciding)

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
        needed = {run.base.known_as for run in self.left()}  # where all runs are recorded, nobody needs the base itself

        def wanted() -> list[Base]:
            return [base for base in self.bases() if base.noted is None or base.known_as in needed]

        with self._claims() as claims:
            built = build_all(
                wanted if only is None else lambda: [only], jobs=jobs, claims=claims, ledger=self.ledger, say=say
            )
        self._note_bases()
        if only is not None and only.accepted is False:
            raise ConfigError(
                "A run starts from a base that its gate accepts.",
                reason=f"{only.known_as} is rejected, and the next candidate takes its place.",
                remedy="--list-jobs prints the commands of the runs as they are now.",
            )
        return built

    def _note_bases(self) -> None:
        """Note bases that were built for another study, so that the ledger alone says which ones are this study's."""
        for base in self.tried_bases():
            if base.recipe is not None and base.noted is None and base.built is not None:
                self.ledger.add(ACCEPTED if base.built else REJECTED, base=base.known_as, reused=True)

    @contextmanager
    def open(self, runs: Sequence[StudyRun]) -> Iterator[tuple[list[RunStatus], RunHooks]]:
        """Yield how far some runs are, and what is to be done when one begins or ends."""
        statuses = [self._status(run) for run in runs]
        with self._claims() as claims:
            made_with = {"study_sha256": self.read.sha256, "frozen": self.frozen.commit if self.frozen else None}
            hooks = StudyHooks(
                dict(zip(map(id, statuses), runs, strict=True)),
                file=self.read.file,
                keep=self.places.keep,
                claims=claims,
                ledger=self.ledger,
                made_with=made_with,
                names=self.read.study.metrics,
            )
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
