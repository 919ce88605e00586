"""What is measured of each recorded run, as the table that contrasts are taken from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from saei.studies.declarations import ESCAPE_SHARE, ESCAPE_TIME, EscapeRule
from saei.studies.plan import StudyRun
from saei.studies.record import recorded_final, recorded_metrics
from saei.studies.statistics.contrasts import RunKey
from saei.studies.statistics.escapes import Escape, first_escape
from saei.studies.statistics.matched import AccuracyCurve, matched_difference

ACCURACY, ENTROPY = "eval/accuracy", "probe/entropy"

MATCHED_ENTROPY = "matched/entropy"
"""``probe/entropy`` at equal ``eval/accuracy``, the first arm's run on the same base and seed subtracted."""

SHARES = (
    "accuracy", "truncated", "pass@", "maj@", "gained", "lost", "all_right", "all_wrong", "zero_variance", "rescues",
)  # fmt: skip
"""How the names of measures begin, behind the last slash, that lie between 0 and 1."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run of a study with what was recorded of it.

    Attributes:
        run: The run.
        lines: Of metrics, in the order of steps.
        final: The final evaluation; empty if there was none.
        escape: When it escaped, or how long it did not; None if the study does not ask, or no evaluation has it.
    """

    run: StudyRun
    lines: Sequence[Mapping[str, Any]]
    final: Mapping[str, Any]
    escape: Escape | None

    @property
    def key(self) -> RunKey:
        """Its place in the table."""
        return RunKey(self.run.arm, self.run.base.label, self.run.repeat)

    def value(self, measure: str, horizon: float) -> float | None:
        """Return a measure after the last step, of training the mean over steps; None where it was not taken.

        Args:
            measure: See ``Contrast.measure``; of ``train/…`` it is the mean over steps.
            horizon: Steps that all arms have, for escapes.
        """
        if measure == ESCAPE_TIME:
            return self.escape.restricted_time(horizon) if self.escape else None
        if measure == ESCAPE_SHARE:
            return float(self.escape.within(horizon).escaped) if self.escape else None
        if measure.startswith("train/"):
            return self.mean_over_steps(measure)
        values = [self.final.get(measure)] if measure.startswith("final/") else [
            line[measure] for line in self.lines if measure in line
        ]  # fmt: skip
        last = values[-1] if values else None
        return float(last) if isinstance(last, int | float) and math.isfinite(last) else None

    def mean_over_steps(self, metric: str) -> float | None:
        """Return the mean of a metric over the steps that have it, None if none has."""
        values = [line[metric] for line in self.lines if isinstance(line.get(metric), int | float)]
        finite = [value for value in values if math.isfinite(value)]
        return fmean(finite) if finite else None

    def curve(self) -> AccuracyCurve | None:
        """Return the entropy over accuracy of its evaluations, None if it has none."""
        points = [(line[ACCURACY], line[ENTROPY]) for line in self.lines if ACCURACY in line and ENTROPY in line]
        return AccuracyCurve(*zip(*points, strict=True)) if points else None


def read_recorded(runs: Sequence[StudyRun], keep: Path, rule: EscapeRule | None) -> list[RecordedRun]:
    """Return what was recorded of some runs.

    Args:
        runs: Recorded ones.
        keep: Where their study is kept.
        rule: What counts as an escape.
    """
    recorded = []
    for run in runs:
        lines = recorded_metrics(run, keep)
        escape = _escape(lines, rule) if rule else None
        recorded.append(RecordedRun(run, lines, recorded_final(run, keep), escape))
    return recorded


def _escape(lines: Sequence[Mapping[str, Any]], rule: EscapeRule) -> Escape | None:
    """Return when a run escaped, None if no evaluation has the metric."""
    evaluations = [line for line in lines if line.get(rule.metric) is not None]
    steps, values = [line["step"] for line in evaluations], [line[rule.metric] for line in evaluations]
    return first_escape(steps, values, rule.threshold) if evaluations else None


def measure_table(
    recorded: Sequence[RecordedRun], measures: Sequence[str], horizon: float
) -> dict[RunKey, dict[str, float]]:
    """Return the measures of each run; what was not taken is left out."""
    table = {}
    for run in recorded:
        values = {measure: run.value(measure, horizon) for measure in measures}
        table[run.key] = {measure: value for measure, value in values.items() if value is not None}
    return table


def matched_table(recorded: Sequence[RecordedRun], first: str) -> dict[RunKey, dict[str, float]]:
    """Return the entropy of each run at matched accuracy, as its difference from the first arm's run beside it.

    Source: original. Runs without an accuracy in common are left out.
    """
    curves = {run.key: curve for run in recorded if (curve := run.curve()) is not None}
    table = {}
    for key, curve in curves.items():
        against = curves.get(key._replace(arm=first))
        difference = matched_difference(curve, against) if against is not None else None
        if difference is not None:
            table[key] = {MATCHED_ENTROPY: difference}
    return table


def largest_difference(measures: Sequence[str], horizon: float) -> dict[str, float]:
    """Return the largest difference that a measure can have, where that is known."""
    bounded = {name: 1.0 for name in measures if name.rpartition("/")[2].startswith(SHARES) or name == ESCAPE_SHARE}
    return bounded | {ESCAPE_TIME: float(horizon)}
