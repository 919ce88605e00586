"""Records of a study's runs that nobody trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saei.studies.execution import Execution
from saei.studies.ledger import FINISHED
from saei.studies.plan import StudyRun
from saei.studies.record import is_recorded, record

Values = Callable[[StudyRun, int], Mapping[str, Any]]
"""The metrics of a run after so many steps."""


def record_runs(
    execution: Execution, folder: Path, values: Values, *, steps: tuple[int, ...], most: int = 10_000
) -> None:
    """Record the first runs of a study, with the metrics that a function gives, evaluated at some steps."""
    for number, run in enumerate(execution.runs()[:most]):
        if is_recorded(run, execution.places.keep):
            continue
        trained = folder / f"trained-{number}"
        trained.mkdir(parents=True)
        lines = [{"step": step, **values(run, step)} for step in steps]
        (trained / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        record(run, trained, execution.places.keep)
        execution.ledger.add(
            FINISHED, run=run.identity, arm=run.arm, base=run.base.known_as, repeat=run.repeat, seconds=36.0,
            responses=run.planned.responses,
        )  # fmt: skip
