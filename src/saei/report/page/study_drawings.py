"""What a study's page draws: contrasts as a forest, arms over training, and who has not escaped yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from saei.report.page.curves import GRID, INK, SERIES, Drawing, dress, inlined, plain
from saei.report.page.html import number
from saei.report.page.panels import Panel
from saei.report.run_groups import MEASURES, RunGroup

if TYPE_CHECKING:
    from saei.studies.statistics.contrasts import ContrastResult
    from saei.studies.statistics.escapes import EscapeCurve

WIDTH = 9.2  # inches, of a drawing across the page
MEANINGS = {
    "eval/accuracy": "Share of right responses to held-out examples, as they are.",
    "probe/entropy": "How undecided the policies are from token to token, on held-out examples as they are.",
    "probe/zero_variance": "Share of the probe's examples whose responses are all right or all wrong.",
}


def forest(contrasts: Sequence[ContrastResult]) -> Markup:
    """Return contrasts as a forest: an axis for each, since measures have units of their own.

    The band is the margin within which two arms count as equal, the dashed lines are the smallest effect that matters,
    the dots are bases.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.25 + 1.15 * len(contrasts)), layout="constrained")
    for axis, each in zip(figure.subplots(len(contrasts), 1, squeeze=False)[:, 0], contrasts, strict=True):
        interval = each.interval
        ends = [end for end in (interval.low, interval.high) if math.isfinite(end)]
        reach = 1.1 * max(map(abs, [*ends, *each.differences, each.smallest_effect]))
        axis.axvspan(-each.margin, each.margin, color=GRID, linewidth=0)
        axis.axvline(0, color=INK, linewidth=0.8)
        for side in (-1, 1):
            axis.axvline(side * each.smallest_effect, color=INK, linewidth=0.8, linestyle="--")
        axis.plot(each.differences, [-0.5] * len(each.differences), "o", color=SERIES[0], markersize=3, alpha=0.6)
        if len(ends) == 2:
            axis.plot(ends, [0, 0], "-", color=SERIES[0], linewidth=2.2)
        if math.isfinite(interval.mean):
            axis.plot([interval.mean], [0], "D", color=SERIES[0], markersize=7)
        dress(axis, whole=False)
        axis.set_xlim(-reach, reach)
        axis.set_ylim(-0.9, 0.5)
        axis.set_yticks([])
        title = f"{each.arm} - {each.against}, {each.measure}"
        axis.set_title(plain(title), loc="left", fontsize=9, color=INK)
    said = "Differences of arms with their 95 % intervals. " + " ".join(map(_said, contrasts))
    return inlined(figure, said, wide=True)


def _said(each: ContrastResult) -> str:
    interval = each.interval
    return (
        f"{each.arm} minus {each.against} in {each.measure}: {number(interval.mean)}, from {number(interval.low)} to "
        f"{number(interval.high)}; margin {each.margin:g}, smallest effect {each.smallest_effect:g}."
    )


def arm_drawings(groups: Sequence[RunGroup]) -> list[Drawing]:
    """Return a drawing for each measure of evaluations: means of the arms over bases, with 95 % intervals."""
    return [
        _arm_drawing(groups, Panel(title.capitalize(), unit, MEANINGS[metric], {metric: title}))
        for metric, title, unit in MEASURES
        if any(math.isfinite(point.values[metric].mean) for group in groups for point in group.points)
    ]


def _arm_drawing(groups: Sequence[RunGroup], panel: Panel) -> Drawing:
    (metric,) = panel.metrics
    figure, axis = _wide(len(groups))
    for n, group in enumerate(groups):
        points = [(point.step, point.values[metric]) for point in group.points]
        steps = [step for step, _ in points]
        axis.plot(steps, [value.mean for _, value in points], label=plain(group.label), **_style(n))
        bounded = [(step, v.low, v.high) for step, v in points if math.isfinite(v.low) and math.isfinite(v.high)]
        if bounded:
            axis.fill_between(*zip(*bounded, strict=True), color=SERIES[n % len(SERIES)], alpha=0.12, linewidth=0)
    _finish(figure, axis, panel.unit, share=panel.unit.startswith("share"))
    ends = [(group.label, group.points) for group in groups if group.points]
    said = f"{panel.title}, {panel.unit}, over training steps. " + " ".join(
        f"{label}: from {number(points[0].values[metric].mean)} to {number(points[-1].values[metric].mean)}."
        for label, points in ends
    )
    means = [{point.step: point.values[metric].mean for point in group.points} for group in groups]
    steps = sorted({step for of_arm in means for step in of_arm})
    rows = [(str(step), *(number(of_arm.get(step)) for of_arm in means)) for step in steps]
    return Drawing(panel, inlined(figure, said, wide=True), rows, [group.label for group in groups])


def escape_drawing(curves: Mapping[str, EscapeCurve]) -> Markup:
    """Return the share of each arm's runs that have not escaped, over steps (Kaplan and Meier)."""
    figure, axis = _wide(len(curves))
    for n, (arm, curve) in enumerate(curves.items()):
        steps = [0.0, *curve.steps, curve.horizon]
        shares = [1.0, *curve.locked]
        axis.step(steps, [*shares, shares[-1]], where="post", label=plain(arm), **_style(n))
    _finish(figure, axis, "share not escaped", share=True)
    said = "Share of runs that have not escaped, over training steps. " + " ".join(
        f"{arm}: {number(curve.locked[-1] if curve.locked else 1.0)} at step {curve.horizon:g}."
        for arm, curve in curves.items()
    )
    return inlined(figure, said, wide=True)


def _wide(arms: int) -> tuple[Any, Any]:
    """Return a figure across the page and its axis, high enough for the arms' names beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, max(3.2, 0.22 * arms + 0.6)), layout="constrained")
    return figure, figure.subplots()


def _style(n: int) -> dict[str, Any]:
    """Return colour and dashes of the n-th arm; arms of one colour differ in their dashes."""
    dashes = ("-", "--", "-.", ":")
    return {"color": SERIES[n % len(SERIES)], "linestyle": dashes[n // len(SERIES) % len(dashes)], "linewidth": 1.6}


def _finish(figure: Any, axis: Any, unit: str, *, share: bool) -> None:
    dress(axis)
    axis.set_ylim(-0.02, 1.02) if share else axis.set_ylim(bottom=min(0.0, axis.dataLim.y0))
    axis.set_xlabel("training step", color=INK, fontsize=9)
    axis.set_ylabel(unit, color=INK, fontsize=9)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
