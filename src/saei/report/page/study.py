"""The page of a study: its question and verdict first, then what they rest on. Nothing by arm before all have ended."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from urllib.parse import quote

from saei.config.yaml import write_yaml
from saei.report.page.html import render
from saei.report.page.study_drawings import arm_drawings, escape_drawing, forest
from saei.report.study_arms import arm_groups
from saei.studies.catalogue import shipped
from saei.studies.ledger import FINISHED
from saei.studies.outcome import Decision, Outcome, outcome_of
from saei.studies.record import folder_of, is_recorded
from saei.studies.sentences import (
    HIDDEN,
    checked,
    escaped,
    missing,
    number,
    p_value,
    progress,
    span,
    standing,
    title,
    verdict,
)

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval
    from saei.studies.execution import Execution

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page: the heads of its columns, and its rows, whose first cells are their heads."""

    head: Row
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the page's list.

    Attributes:
        arm: Its arm.
        base: Its base, and which of several seeds.
        state: What became of it.
        files: What is recorded of it: name and address of each file, relative to the page.
    """

    arm: str
    base: str
    state: str
    files: Sequence[tuple[str, str]]


def study_page(execution: Execution, output: Path) -> str:
    """Return the page of a study.

    Args:
        execution: The study.
        output: Where the page goes; its links to records begin there.
    """
    outcome, study = outcome_of(execution), execution.read.study
    curves = {each.arm: each.escapes for each in outcome.arms if each.escapes is not None}
    decided = [each for each in outcome.decisions if each.result.bases]
    return render(
        "study.html",
        title=study.name,
        study=study,
        missing=[],
        verdict=_verdict(outcome),
        standing=standing(outcome.reasons),
        progress=progress(outcome),
        hidden=HIDDEN,
        complete=outcome.complete,
        forest=forest([each.result for each in decided]) if decided else None,
        contrasts=_contrasts(outcome.decisions),
        differences=_differences(outcome.decisions),
        verdicts=[(title(each.result), verdict(each)) for each in outcome.decisions],
        drawings=arm_drawings(arm_groups(execution, outcome)) if outcome.complete else [],
        escapes=escape_drawing(curves) if curves else None,
        escaped=[(each.arm, escaped(each)) for each in outcome.arms if escaped(each)],
        arms=_arms(execution, outcome),
        measures=_measures(outcome),
        exploratory=_exploratory(outcome),
        variance=_variance(outcome),
        settings=write_yaml(study.settings).strip(),
        left_out=missing(outcome) if outcome.recorded else [],
        bases=_bases(execution),
        runs=_runs(execution, output),
        cost=_cost(execution),
        commands=_commands(execution),
    )


def _verdict(outcome: Outcome) -> str:
    if not outcome.complete:
        return f"{progress(outcome)} {HIDDEN}" if outcome.recorded else progress(outcome)
    told = [f"{each.result.arm} - {each.result.against}: {verdict(each)}" for each in outcome.decisions]
    return " ".join(told) or "The study declares no contrast, so that all of it is exploratory."


def _contrasts(decisions: Sequence[Decision]) -> Table:
    rows = [
        (
            title(each.result),
            number(each.result.interval.mean, sign=True),
            span(each.result.interval),
            span(each.result.joint),
            p_value(each.result.p),
            p_value(each.result.adjusted),
            number(each.result.detectable[1]),
            number(each.result.smallest_effect),
            number(each.result.margin),
            str(len(each.result.bases)),
        )
        for each in decisions
    ]
    head = (
        "contrast", "mean", "95 % interval", "with all contrasts", "p", "p, Holm", "found with 80 %",
        "smallest effect", "margin", "bases",
    )  # fmt: skip
    return Table(head, rows)


def _differences(decisions: Sequence[Decision]) -> Table:
    of_bases = [dict(zip(each.result.bases, each.result.differences, strict=True)) for each in decisions]
    bases = dict.fromkeys(base for each in of_bases for base in each)
    rows = [(base, *(number(each.get(base), sign=True) for each in of_bases)) for base in bases]
    return Table(("base", *(title(each.result) for each in decisions)), rows)


def _arms(execution: Execution, outcome: Outcome) -> Table:
    study = execution.read.study
    results = {each.arm: each for each in outcome.arms}
    rows = []
    for arm, settings in study.arms.items():
        notes = [f"Unequal: {study.unequal[arm]}"] if arm in study.unequal else []
        notes += [checked(check) for check in results[arm].checks] if arm in results else []
        sets = write_yaml(settings, flow=True).strip() if settings else "the shared settings alone"
        rows.append((arm, sets, "; ".join(notes)))
    return Table(("arm", "sets in addition", "notes"), rows)


def _measures(outcome: Outcome) -> Table:
    rows = [(name, *(_mean(each.means.get(name)) for each in outcome.arms)) for name in outcome.measures]
    return Table(("measure", *(each.arm for each in outcome.arms)), rows if outcome.arms else [])


def _mean(interval: Interval | None) -> str:
    return "none" if interval is None else f"{number(interval.mean)} ({span(interval, sign=False)})"


def _exploratory(outcome: Outcome) -> Table:
    rows = [
        (title(each), number(each.interval.mean, sign=True), span(each.interval), p_value(each.p), str(len(each.bases)))
        for each in outcome.exploratory
    ]
    return Table(("contrast", "mean", "95 % interval", "p", "bases"), rows)


def _variance(outcome: Outcome) -> Table:
    rows = [
        (
            measure,
            *(number(part.sd) for part in (each.between_bases, each.arm_by_base, each.between_seeds)),
            number(each.difference_sd().mean),
        )
        for measure, each in outcome.variance.items()
    ]
    return Table(("measure", "between bases", "arm by base", "between seeds", "difference of two arms"), rows)


def _bases(execution: Execution) -> Table:
    verdicts = {True: "accepted", False: "rejected by its gate", None: "not built yet"}
    rows = [(base.label, base.known_as, verdicts[base.accepted]) for base in execution.tried_bases()]
    return Table(("base", "known as", "gate"), rows)


def _runs(execution: Execution, output: Path) -> list[RunRow]:
    keep, events = execution.places.keep, execution.ledger.last_events()
    rows = []
    for run in execution.runs():
        state = "recorded" if is_recorded(run, keep) else events.get(run.identity, "to do")
        folder = folder_of(run, keep)
        files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
        beside = os.path.relpath(folder, output.parent)
        links = [(name, quote(f"{beside}/{name}")) for name in files]
        base = run.base.label + (f", seed {run.repeat}" if execution.read.study.seeds > 1 else "")
        rows.append(RunRow(run.arm, base, state, links))
    return rows


def _cost(execution: Execution) -> Table:
    """Return what the finished runs of each arm took; those that were there already took nothing here."""
    seconds: dict[str, list[float]] = {}
    for line in execution.ledger.lines():
        if line["event"] == FINISHED and line.get("seconds"):
            seconds.setdefault(line["arm"], []).append(line["seconds"])
    rows = [
        (arm, str(len(of_arm)), f"{fmean(of_arm):.0f}", f"{sum(of_arm) / 3600:.2f}") for arm, of_arm in seconds.items()
    ]
    if len(rows) > 1:
        total = [each for of_arm in seconds.values() for each in of_arm]
        rows.append(("all", str(len(total)), f"{fmean(total):.0f}", f"{sum(total) / 3600:.2f}"))
    return Table(("arm", "finished runs", "seconds each", "hours"), rows)


def _commands(execution: Execution) -> str:
    study, file = execution.read.study, execution.read.file
    name = study.name if study.name in shipped() else shlex.quote(file.name)
    if execution.read.quick:
        return f"saei study run {name} --quick"
    return f"saei study run {name} --dry-run\nsaei study run {name} --jobs 2"
