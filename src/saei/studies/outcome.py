"""What came of a study, shown only when nothing is left to choose: every run of every declared base has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from saei.errors import SaeiError
from saei.evaluation.statistics.intervals import Interval, mean_interval
from saei.studies.declarations import Check, Contrast
from saei.studies.execution import Execution
from saei.studies.ledger import FAILED
from saei.studies.measures import (
    MATCHED_ENTROPY,
    RecordedRun,
    largest_difference,
    matched_table,
    measure_table,
    read_recorded,
)
from saei.studies.plan import StudyRun
from saei.studies.record import is_recorded
from saei.studies.statistics.contrasts import ContrastResult, RunKey, Verdict, by_base, compare
from saei.studies.statistics.escapes import EscapeCurve, escape_curve
from saei.studies.statistics.variance import VarianceComponents, variance_components
from saei.studies.study import StudyFile

Table = Mapping[RunKey, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether an arm did what its name says.

    Attributes:
        check: What it has to do.
        mean: What it did: the mean over its runs of their means over steps; None if no step has the metric.

    Example:
        ``CheckResult(Check(metric="train/intervention/criterion_rose", at_least=0.8), mean=0.97)``
    """

    check: Check
    mean: float | None

    @property
    def passed(self) -> bool:
        """Whether the mean lies within the bounds; not, if nothing was measured."""
        low, high = self.check.at_least, self.check.at_most
        return self.mean is not None and (low is None or self.mean >= low) and (high is None or self.mean <= high)


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """What came of an arm.

    Attributes:
        arm: Its name.
        bases: On how many bases a run of it was recorded.
        failed: Labels of the bases on which a run failed.
        means: By measure, the mean over bases and its 95 % interval.
        checks: Its checks.
        escapes: The Kaplan-Meier curve of its runs; None if the study has no `escape`, or no run was followed.
    """

    arm: str
    bases: int
    failed: tuple[str, ...]
    means: Mapping[str, Interval]
    checks: tuple[CheckResult, ...]
    escapes: EscapeCurve | None


@dataclass(frozen=True, slots=True)
class Decision:
    """A declared contrast and what it decides.

    Attributes:
        result: Its statistics.
        headline: Whether it is the study's headline answer.
        reasons: Why it decides nothing whatever its interval; empty for a confirmatory contrast.
    """

    result: ContrastResult
    headline: bool
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """What it decides."""
        return "exploratory" if self.reasons else self.result.verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a study is, and what came of its arms.

    Attributes:
        runs: How many it has.
        recorded: How many were finished.
        failed: How many ended without a result.
        rejected: Bases that the gate rejected before any reinforcement.
        reasons: Why the study is exploratory; empty for one that was declared before its runs.
        measures: What is shown of each arm: the declared measures first, then all of the final evaluation.
        arms: In the order of the file; empty before all runs have ended, as all that follows.
        decisions: The declared contrasts.
        exploratory: Each other arm against the first one, in each declared measure that is no contrast of theirs; and
            the arms of contrasts against each other one, in their measures.
        variance: By measure, of a study with several seeds, if no run is missing.
    """

    runs: int
    recorded: int
    failed: int
    rejected: tuple[str, ...]
    reasons: tuple[str, ...]
    measures: tuple[str, ...]
    arms: tuple[ArmOutcome, ...] = ()
    decisions: tuple[Decision, ...] = ()
    exploratory: tuple[ContrastResult, ...] = ()
    variance: Mapping[str, VarianceComponents] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all runs have ended."""
        return self.recorded > 0 and self.recorded + self.failed == self.runs

    @property
    def means(self) -> Mapping[str, Sequence[float | None]]:
        """Of each arm, the mean of each measure over bases, None where it was not taken."""
        return {
            each.arm: [each.means[name].mean if name in each.means else None for name in self.measures]
            for each in self.arms
        }


def outcome_of(execution: Execution, *, reasons: Sequence[str] | None = None) -> Outcome:
    """Return how far a study is, and its outcome if every run of every declared base has ended.

    Args:
        execution: The study.
        reasons: Why it is exploratory; by default they are looked for.
    """
    keep, read = execution.places.keep, execution.read
    runs, events = execution.runs(), execution.ledger.last_events()
    done = [run for run in runs if is_recorded(run, keep)]
    failed = [run for run in runs if not is_recorded(run, keep) and events.get(run.identity) == FAILED]
    why = tuple(execution.exploratory() if reasons is None else reasons)
    rejected = tuple(base.label for base in execution.tried_bases() if base.accepted is False)
    declared = read.study.all_measures
    if not done or len(done) + len(failed) < len(runs):
        return Outcome(len(runs), len(done), len(failed), rejected, why, declared)

    horizon = _horizon(read)
    recorded = read_recorded(done, keep, read.study.escape)
    measures = _with_final(declared, recorded)
    table = measure_table(recorded, measures, horizon)
    arms = tuple(_arm(arm, execution, recorded, failed, table, measures, horizon) for arm in read.study.arms)
    largest = largest_difference(measures, horizon)
    return Outcome(
        runs=len(runs),
        recorded=len(done),
        failed=len(failed),
        rejected=rejected,
        reasons=why,
        measures=measures,
        arms=arms,
        decisions=_decisions(read, table, arms, why, largest),
        exploratory=(*_exploratory(read, table, largest), *_at_matched_accuracy(read, recorded)),
        variance=_variance(read, table),
    )


def _horizon(read: StudyFile) -> float:
    """Return the steps that all arms have, apart from those with more responses."""
    return float(min(config.training.steps for config in read.configs.values()))


def _with_final(declared: Sequence[str], recorded: Sequence[RecordedRun]) -> tuple[str, ...]:
    names = [name for run in recorded for name in run.final if name.startswith("final/")]
    return tuple(dict.fromkeys((*declared, *names)))


def _arm(
    arm: str,
    execution: Execution,
    recorded: Sequence[RecordedRun],
    failed: Sequence[StudyRun],
    table: Table,
    measures: Sequence[str],
    horizon: float,
) -> ArmOutcome:
    runs = [run for run in recorded if run.key.arm == arm]
    values = {measure: list(by_base(table, arm, measure).values()) for measure in measures}
    escapes = [run.escape for run in runs if run.escape is not None]
    try:
        curve = escape_curve(escapes, horizon) if escapes else None
    except SaeiError:  # no run was followed to the horizon
        curve = None
    return ArmOutcome(
        arm=arm,
        bases=len({run.key.base for run in runs}),
        failed=tuple(run.base.label for run in failed if run.arm == arm),
        means={measure: mean_interval(each) for measure, each in values.items() if each},
        checks=tuple(_checked(check, runs) for check in execution.read.study.checks.get(arm, ())),
        escapes=curve,
    )


def _checked(check: Check, runs: Sequence[RecordedRun]) -> CheckResult:
    means = [mean for run in runs if (mean := run.mean_over_steps(check.metric)) is not None]
    return CheckResult(check, fmean(means) if means else None)


def _decisions(
    read: StudyFile,
    table: Table,
    arms: Sequence[ArmOutcome],
    reasons: Sequence[str],
    largest: Mapping[str, float],
) -> tuple[Decision, ...]:
    """Return what the declared contrasts decide. Those that decide nothing still count in Holm's correction."""
    failing = {each.arm for each in arms if not all(check.passed for check in each.checks)}
    decisions = []
    for contrast, result in zip(
        read.study.contrasts, compare(table, read.study.contrasts, largest=largest), strict=True
    ):
        why = [f"{arm} did not do what its name says" for arm in (contrast.arm, contrast.against) if arm in failing]
        study = ["the study is exploratory"] if reasons else []
        # A run may have failed because of its arm, so that the bases that are left are no fair sample.
        missing = [f"a run is missing on {', '.join(result.unpaired)}"] if result.unpaired else []
        decisions.append(Decision(result, contrast.headline, (*study, *why, *missing)))
    return tuple(decisions)


def _exploratory(read: StudyFile, table: Table, largest: Mapping[str, float]) -> list[ContrastResult]:
    """Return each other arm against the first one, and in a contrast's measure its arm against each other one.

    Declared contrasts are left out, and measures that only one of two arms has.
    """
    first, *others = read.study.arms
    pairs = [(arm, first, measure) for measure in read.study.all_measures for arm in others]
    pairs += [
        (contrast.arm, arm, contrast.measure)
        for contrast in read.study.contrasts
        for arm in others
        if arm != contrast.arm
    ]
    seen = {(contrast.measure, frozenset((contrast.arm, contrast.against))) for contrast in read.study.contrasts}
    undeclared = []
    for arm, against, measure in pairs:
        key = (measure, frozenset((arm, against)))
        if key not in seen:
            seen.add(key)
            undeclared.append(_undeclared(read, arm, against, measure))
    return [result for result in compare(table, (), undeclared, largest=largest) if result.bases]


def _at_matched_accuracy(read: StudyFile, recorded: Sequence[RecordedRun]) -> list[ContrastResult]:
    first, *others = read.study.arms
    table = matched_table(recorded, first)
    measured = {key.arm for key in table}
    return compare(table, (), [_undeclared(read, arm, first, MATCHED_ENTROPY) for arm in others if arm in measured])


@dataclass(frozen=True, slots=True)
class _Undeclared:
    """A contrast that nobody declared: what would matter in it is that of the declared ones in its measure, or open."""

    arm: str
    against: str
    measure: str
    smallest_effect: float
    margin: float


def _undeclared(read: StudyFile, arm: str, against: str, measure: str) -> _Undeclared:
    alike: list[Contrast] = [contrast for contrast in read.study.contrasts if contrast.measure == measure]
    bounds = (alike[0].smallest_effect, alike[0].margin) if alike else (math.nan, math.nan)
    return _Undeclared(arm, against, measure, *bounds)


def _variance(read: StudyFile, table: Table) -> dict[str, VarianceComponents]:
    """Return the components of each declared measure, where the study has several seeds and no run is missing."""
    components = {}
    for measure in read.study.all_measures if read.study.seeds > 1 else ():
        try:
            components[measure] = variance_components(table, measure)
        except SaeiError:
            continue
    return components
