"""When runs escape from where they started: Kaplan-Meier curves, restricted mean times and escapes.

Times are optimiser steps. All arms of a study share one horizon, since a restricted mean has no meaning without it.
Means and intervals of final accuracy say little where outcomes have two humps, escaped and not; these do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from saei.errors import SaeiError
from saei.evaluation.statistics.intervals import Interval, proportion_interval


@dataclass(frozen=True, slots=True)
class Escape:
    """How long a run was followed, and whether it escaped.

    Attributes:
        step: The step of the escape, or the last step that was measured.
        escaped: Whether it escaped at ``step``.

    Example:
        ``Escape(step=40, escaped=True)``; ``Escape(step=160, escaped=False)`` for a run that never did.
    """

    step: float
    escaped: bool

    def within(self, horizon: float) -> Escape:
        """Return what is seen of it up to the horizon; an escape at the horizon itself counts."""
        return self if self.step <= horizon else Escape(horizon, False)

    def restricted_time(self, horizon: float) -> float | None:
        """Return the time to escape or to the horizon; None for a run cut short, whose time nobody knows.

        Its mean over uncensored runs is the restricted mean, so that the paired difference of two arms' restricted
        means is the mean of the differences by base: the contrast of this measure.
        """
        seen = self.within(horizon)
        return seen.step if seen.escaped or seen.step == horizon else None


@dataclass(frozen=True, slots=True)
class EscapeCurve:
    """The Kaplan-Meier curve of an arm up to a horizon.

    Attributes:
        horizon: Where it ends.
        steps: Steps at which runs escaped, ascending.
        locked: After each of them, the estimated share of runs that have not escaped; 1 before the first.
        restricted_mean: The mean time to escape or to the horizon, the area below the curve.
        error: Its standard error by Greenwood's formula times ``sqrt(n / (n - 1))``: without runs cut short, that of a
            mean of n values. NaN for one run.
        runs: How many there are.
        cut_short: Runs that ended before the horizon without an escape.
        escaped: The share of escapes among the runs not cut short, with its exact (Clopper-Pearson) 95 % interval.

    Example:
        Escapes at steps 40 and 100, and a third run that had none up to the horizon of 160:
        ``EscapeCurve(160, steps=(40, 100), locked=(0.667, 0.333), restricted_mean=100.0, error=34.6, runs=3,
        cut_short=0, escaped=Interval(0.667, 0.094, 0.992))``
    """

    horizon: float
    steps: tuple[float, ...]
    locked: tuple[float, ...]
    restricted_mean: float
    error: float
    runs: int
    cut_short: int
    escaped: Interval


def first_escape(steps: Sequence[float], values: Sequence[float], threshold: float) -> Escape:
    """Return when a run's evaluations first reach the threshold; a run that falls back later has still escaped.

    The true time lies between this evaluation and the one before it, so arms need the same evaluation steps.

    Args:
        steps: Of the evaluations, ascending; at least one.
        values: Of the measure, such as the accuracy.
        threshold: What counts as escaped.
    """
    for step, value in zip(steps, values, strict=True):
        if value >= threshold:
            return Escape(step, True)
    return Escape(steps[-1], False)


def escape_curve(escapes: Sequence[Escape], horizon: float) -> EscapeCurve:
    """Return the Kaplan-Meier estimate (Kaplan and Meier 1958) of an arm, and its mean restricted to the horizon.

    Raises:
        SaeiError: If no run is left to say how the curve goes on up to the horizon.
    """
    seen = [escape.within(horizon) for escape in escapes]
    last = max((escape.step for escape in seen), default=0.0)
    if last < horizon and not (seen and all(escape.escaped for escape in seen if escape.step == last)):
        raise SaeiError(
            "A mean time up to a horizon needs a run that is followed to the horizon, or an escape as the last event.",
            reason=f"The horizon is {horizon:g}, and the longest of {len(seen)} runs ends without an escape at "
            f"{last:g}.",
            remedy="Finish the runs, or declare an earlier horizon for all arms.",
        )
    steps = sorted({escape.step for escape in seen if escape.escaped})
    at_risk = [sum(escape.step >= step for escape in seen) for step in steps]
    events = [sum(escape.escaped and escape.step == step for escape in seen) for step in steps]
    locked, share = [], 1.0
    for count, escaped in zip(at_risk, events, strict=True):
        share *= 1 - escaped / count
        locked.append(share)

    edges = [0.0, *steps, horizon]
    areas = [height * (edges[i + 1] - edges[i]) for i, height in enumerate([1.0, *locked])]
    variance = sum(
        math.fsum(areas[i + 1 :]) ** 2 * escaped / (count * (count - escaped))
        for i, (count, escaped) in enumerate(zip(at_risk, events, strict=True))
        if escaped < count  # after the last run's escape no area is left
    )
    known = [escape for escape in seen if escape.restricted_time(horizon) is not None]
    return EscapeCurve(
        horizon=horizon,
        steps=tuple(steps),
        locked=tuple(locked),
        restricted_mean=math.fsum(areas),
        error=math.sqrt(variance * len(seen) / (len(seen) - 1)) if len(seen) > 1 else math.nan,
        runs=len(seen),
        cut_short=len(seen) - len(known),
        escaped=proportion_interval(sum(escape.escaped for escape in known), len(known)),
    )
