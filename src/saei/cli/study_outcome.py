"""How far a study is and what came of it, on the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from saei.console import say, screen

if TYPE_CHECKING:
    from saei.studies.execution import Execution
    from saei.studies.headlines import Headline
    from saei.studies.outcome import Outcome


def say_standing(execution: Execution) -> None:
    """Say whether a study is confirmatory."""
    reasons = execution.exploratory()
    said = f"exploratory: {'; '.join(reasons)}" if reasons else "declared before its runs"
    say(f"{execution.read.study.name} is {said}.", error=True)


def show_outcome(outcome: Outcome) -> None:
    """Print what came of a study's arms, if every run of every declared base has ended; else only how many have."""
    from rich.table import Table

    from saei.studies.sentences import HIDDEN, checked, decided, escaped, missing, number, p_value, span, title

    say(f"{outcome.recorded} of {outcome.runs} runs are recorded, {outcome.failed} failed.")
    if not outcome.complete:
        say(HIDDEN)
        return
    console = screen()
    arms = Table("measure", box=None, padding=(0, 2, 0, 0))
    for each in outcome.arms:
        arms.add_column(each.arm, overflow="fold")
    for name in outcome.measures:
        arms.add_row(name, *(number(each.means[name].mean) if name in each.means else "none" for each in outcome.arms))
    console.print(arms)
    for each in outcome.arms:
        for check in each.checks:
            console.print(f"{each.arm}: {checked(check)}", soft_wrap=True)
        if escaped(each):
            console.print(f"{each.arm}: {escaped(each)}", soft_wrap=True)
    for decision in outcome.decisions:
        console.print(decided(decision, len(outcome.decisions)), soft_wrap=True)
    if outcome.exploratory:
        table = Table("exploratory", "difference", "95 % interval", "p", "bases", box=None, padding=(0, 2, 0, 0))
        for result in outcome.exploratory:
            difference = number(result.interval.mean, sign=True)
            table.add_row(title(result), difference, span(result.interval), p_value(result.p), str(len(result.bases)))
        console.print(table)
    for text in missing(outcome):
        console.print(text, soft_wrap=True)


def print_json(execution: Execution, outcome: Outcome) -> None:
    """Print a study and its outcome as JSON."""
    from saei.evaluation.store import finite

    report = asdict(outcome)
    for decision, values in zip(outcome.decisions, report["decisions"], strict=True):
        values["verdict"] = decision.verdict
    study = execution.read.study.model_dump(mode="json")
    # The checks are no dataclasses, but sections of the study's file.
    for arm, values in zip(outcome.arms, report["arms"], strict=True):
        values["checks"] = [
            {**check.check.model_dump(mode="json"), "mean": check.mean, "passed": check.passed} for check in arm.checks
        ]
    print(json.dumps(finite({"study": study, "complete": outcome.complete, **report}), indent=2))


def show_headlines(headlines: list[Headline]) -> None:
    """Print the headline answers, adjusted over all of them."""
    from rich.table import Table

    from saei.studies.sentences import number, p_value, progress, span, verdict

    table = Table("study", "difference, 95 % interval", "p, all", "verdict", box=None, padding=(0, 2, 0, 0))
    for each in headlines:
        decision = each.decision
        if decision is None:
            table.add_row(each.study.name, "", "", progress(each.outcome))
            continue
        result = decision.result
        difference = f"{number(result.interval.mean, sign=True)} ({span(result.interval)})"
        table.add_row(each.study.name, difference, p_value(result.headline), verdict(decision))
    screen().print(table)
