"""A study's outcome in words, the same on the terminal and on its page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from saei.evaluation.statistics.intervals import Interval
from saei.studies.outcome import ArmOutcome, CheckResult, Decision, Outcome
from saei.studies.statistics.contrasts import ContrastResult

HIDDEN = "What came of the arms is shown when every run of every declared base has ended."


def number(value: float | None, *, sign: bool = False) -> str:
    """Return a measure with three decimals, or one for what is counted in steps; ``none`` where there is none."""
    if value is None or math.isnan(value):
        return "none"
    if math.isinf(value):
        return "unbounded"
    text = f"{value:+.{1 if abs(value) >= 10 else 3}f}"
    return text if sign else text.lstrip("+")


def p_value(p: float | None) -> str:
    """Return a p value with two digits; empty where there is none."""
    return "" if p is None else f"{p:.2g}"


def span(interval: Interval, *, sign: bool = True) -> str:
    """Return an interval from its low to its high end."""
    if math.isinf(interval.low) or math.isinf(interval.high):
        return "unbounded"
    low, high = number(interval.low, sign=sign), number(interval.high, sign=sign)
    return "none" if math.isnan(interval.low) else f"{low} to {high}"


def standing(reasons: Sequence[str]) -> str:
    """Return whether a study is confirmatory, and why not."""
    return f"Exploratory: {'; '.join(reasons)}." if reasons else "Declared before its runs."


def progress(outcome: Outcome) -> str:
    """Return how far a study is."""
    if not outcome.recorded and not outcome.failed:
        return "Not run."
    failed = f", {outcome.failed} failed" if outcome.failed else ""
    return f"{outcome.recorded} of {outcome.runs} runs are recorded{failed}."


def title(result: ContrastResult) -> str:
    """Return what is compared."""
    return f"{result.arm} - {result.against} in {result.measure}"


def verdict(decision: Decision) -> str:
    """Return what a declared contrast decides."""
    result = decision.result
    if decision.reasons:
        return f"Not confirmatory: {', and '.join(decision.reasons)}."
    if decision.verdict == "equal within the margin":
        return f"Equal within the margin of {number(result.margin)}."
    if decision.verdict == "differs":
        return f"Differs: {result.arm} is {'higher' if result.interval.mean > 0 else 'lower'}."
    if not result.bases:
        return "Decides nothing: no base has both arms."
    weak = "" if result.can_find else " So few bases may miss the smallest effect that matters."
    return f"Decides nothing: neither within the margin nor different from 0 after Holm's correction.{weak}"


def decided(decision: Decision, declared: int) -> str:
    """Return a declared contrast in full.

    Args:
        decision: The contrast.
        declared: How many the study declares.
    """
    result = decision.result
    count = len(result.bases)
    if not count:
        return f"{title(result)}: no base has both."
    together = f"; with all {declared} contrasts {span(result.joint)}" if declared > 1 else ""
    alone, first = result.detectable
    found = number(alone) if declared == 1 else f"{number(alone)} alone and {number(first)} as Holm's first"
    return (
        f"{title(result)}: mean {number(result.interval.mean, sign=True)} over {count} bases, 95 % interval "
        f"{span(result.interval)}{together}; p {p_value(result.p)} by {result.test}, {p_value(result.adjusted)} after "
        f"Holm. Found with 80 %: {found}; smallest effect {number(result.smallest_effect)}, margin "
        f"{number(result.margin)}. {verdict(decision)}"
    )


def checked(result: CheckResult) -> str:
    """Return a check and what came of it."""
    check = result.check
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", check.at_least), ("at most", check.at_most))
        if bound is not None
    ]
    measured = "was not measured" if result.mean is None else f"is {number(result.mean)}"
    return f"{check.metric} {measured}, declared {' and '.join(bounds)}: {'passed' if result.passed else 'failed'}"


def escaped(arm: ArmOutcome) -> str:
    """Return an arm's escapes with the Kaplan-Meier estimate of their time; empty where there is none."""
    curve = arm.escapes
    if curve is None:
        return ""
    followed = curve.runs - curve.cut_short
    count = round(curve.escaped.mean * followed) if followed else 0
    return (
        f"{count} of {followed} runs escaped ({span(curve.escaped, sign=False)}), after "
        f"{number(curve.restricted_mean)} of {curve.horizon:g} steps on average"
    )


def missing(outcome: Outcome) -> list[str]:
    """Return what is not in the numbers: rejected bases, failed runs, bases that only one arm of a contrast has."""
    names = f": {', '.join(outcome.rejected)}" if outcome.rejected else ""
    lines = [f"{len(outcome.rejected)} bases rejected by their gate before any run{names}."]
    lines += [f"{each.arm} failed on {', '.join(each.failed)}." for each in outcome.arms if each.failed]
    lines += [
        f"{title(each.result)}: only one arm has {', '.join(each.result.unpaired)}."
        for each in outcome.decisions
        if each.result.unpaired
    ]
    return lines
