"""What came of a study, shown only when nothing is left to choose: every run of every declared base has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from saei.studies.execution import Execution
from saei.studies.ledger import FAILED
from saei.studies.plan import StudyRun
from saei.studies.record import is_recorded, outcome


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a study is, and what came of its arms.

    Attributes:
        runs: How many it has.
        recorded: How many were finished.
        failed: How many ended without a result.
        measures: The measures of its contrasts.
        means: Of each arm, the mean of each measure over bases; empty before all runs have ended.
        differences: A sentence for each contrast, likewise.
    """

    runs: int
    recorded: int
    failed: int
    measures: tuple[str, ...]
    means: Mapping[str, Sequence[float | None]]
    differences: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether all runs have ended."""
        return self.recorded > 0 and self.recorded + self.failed == self.runs


def outcome_of(execution: Execution) -> Outcome:
    """Return how far a study is, and its outcome if every run of every declared base has ended."""
    keep, study = execution.places.keep, execution.read.study
    runs = execution.runs()
    recorded = [run for run in runs if is_recorded(run, keep)]
    failed = [run for run in runs if not is_recorded(run, keep) and execution.ledger.last(run.identity) == FAILED]
    measures = tuple(dict.fromkeys(contrast.measure for contrast in study.contrasts)) or ("eval/accuracy",)
    means: dict[str, list[float | None]] = {}
    differences: list[str] = []
    if recorded and len(recorded) + len(failed) == len(runs):
        for arm in study.arms:
            means[arm] = [_mean(list(by_base(recorded, execution, arm, measure).values())) for measure in measures]
        for contrast in study.contrasts:
            first = by_base(recorded, execution, contrast.arm, contrast.measure)
            second = by_base(recorded, execution, contrast.against, contrast.measure)
            pairs = [first[base] - second[base] for base in first if base in second]
            told = f"mean {_mean(pairs):+.3f}" if pairs else "no base has both"
            differences.append(
                f"{contrast.arm} - {contrast.against} in {contrast.measure}: {told}, over {len(pairs)} bases."
            )
    return Outcome(len(runs), len(recorded), len(failed), measures, means, differences)


def by_base(runs: Sequence[StudyRun], execution: Execution, arm: str, measure: str) -> dict[str, float]:
    """Return an arm's measure on each base, the mean of its seeds there; bases without a value are left out."""
    values: dict[str, list[float]] = {}
    for run in runs:
        value = outcome(run, execution.places.keep, measure) if run.arm == arm else None
        if value is not None:
            values.setdefault(run.base.label, []).append(value)
    return {base: fmean(each) for base, each in values.items()}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
