"""What is done when a run of a study begins or ends: it is claimed, noted in the ledger, and recorded."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from saei.errors import SaeiError
from saei.runtime.files import read_jsonl
from saei.runtime.stopwatch import PHASES
from saei.studies.arms import training_responses
from saei.studies.claims import Claims
from saei.studies.final.settings import FINAL
from saei.studies.freeze import changes, revision
from saei.studies.ledger import ABORTED, FAILED, FINISHED, STARTED, Ledger
from saei.studies.plan import StudyRun
from saei.studies.record import is_recorded, record
from saei.studies.runs import is_complete, note_start, prepare, starts_of
from saei.studies.scheduler import RunHooks, RunStatus, State


class StudyHooks(RunHooks):
    """Claims a run before it begins, notes what becomes of it, and records it once it is complete.

    Args:
        runs: By the id of their status.
        file: The study's.
        keep: Where the study is kept.
        claims: This process's.
        ledger: The study's.
        made_with: What is noted of each start: the hash of the study's file, and the commit that froze it.
        names: Metrics that the study asks for.
    """

    def __init__(
        self,
        runs: Mapping[int, StudyRun],
        *,
        file: Path,
        keep: Path,
        claims: Claims,
        ledger: Ledger,
        made_with: Mapping[str, Any],
        names: Collection[str],
    ) -> None:
        self._runs, self._file, self._keep, self._claims, self._ledger = runs, file, keep, claims, ledger
        self._study, self._names = made_with, names

    def begin(self, status: RunStatus) -> bool:
        """Return whether the run's process may start: not, if another scheduler has it, or it is recorded."""
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
        made_with = self._made_with()
        note_start(status.folder, made_with)
        self._ledger.add(
            STARTED,
            run=run.identity,
            arm=run.arm,
            base=run.base.known_as,
            repeat=run.repeat,
            seed=run.planned.config.seed,
            step=status.step,
            **made_with,
            **self._study,
        )
        return True

    def _made_with(self) -> dict[str, Any]:
        """Return the commit of the code, asked anew for each run: somebody may work on it while a study goes on."""
        commit = revision(self._file)
        return {"commit": commit, "dirty": commit is not None and bool(changes(self._file, commit))}

    def end(self, status: RunStatus) -> None:
        """Record a run that is complete, and note what became of it."""
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
        record(run, status.folder, self._keep, self._names)
        seconds = _seconds(status.folder)
        self._ledger.add(
            FINISHED,
            run=run.identity,
            arm=run.arm,
            base=run.base.known_as,
            repeat=run.repeat,
            seed=run.planned.config.seed,
            reused=reused,
            **({"starts": starts_of(status.folder), **self._study} if reused else {}),
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
