"""Runs of one method over seeds and bases: their mean curves with intervals, as pictures and as a table."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.errors import ConfigError
from saei.evaluation.metrics import mean
from saei.evaluation.statistics.intervals import Interval, mean_interval
from saei.report.compare import BUDGET, COLOURS, Curve, read_curve
from saei.report.run_list import RunSummary
from saei.report.run_settings import differing, setting, short
from saei.runtime.files import replacing, write_whole

ENTROPY, ACCURACY, ZERO_VARIANCE = "probe/entropy", "eval/accuracy", "probe/zero_variance"

MEASURES = (
    (ENTROPY, "probe entropy", "nats per token"),
    (ACCURACY, "sampled accuracy", "share right"),
    (ZERO_VARIANCE, "groups all right or all wrong", "share of examples"),
)
"""Metric, title and unit; all on the clean view of held-out examples."""

REPEATED = ("seed", "model.path", "model.revision")
"""Fields in which the runs of one method may differ: its seeds and its bases."""

OF_THE_OUTPUT = ("output.", "evaluation.adversarial_images", "plugins")
"""Beginnings of fields that change nothing that is measured."""

FORMATS = (".png", ".svg", ".pdf", ".csv")


@dataclass(frozen=True, slots=True)
class Point:
    """The runs of a group after the same number of steps.

    Attributes:
        step: Steps done.
        budget: Responses sampled until then, the mean of the runs; None where a run does not say.
        values: Each measure's mean and 95 % interval by its metric; unbounded for one run.
        units: What the mean is over: bases if there are several, each the mean of its runs, else runs.
    """

    step: int
    budget: float | None
    values: Mapping[str, Interval]
    units: int


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs of one method.

    Attributes:
        label: What their configurations have that the other groups' have not.
        bases: The base of each run.
        curves: The evaluations of each run.
    """

    label: str
    bases: tuple[str, ...]
    curves: tuple[Curve, ...]

    @property
    def points(self) -> list[Point]:
        """The mean of all runs, at the steps at which every one of them was evaluated."""
        by_step = [{point["step"]: point for point in curve.points} for curve in self.curves]
        steps = sorted(set.intersection(*(set(points) for points in by_step)))
        return [self._point(step, [points[step] for points in by_step]) for step in steps]

    def _point(self, step: int, points: Sequence[Mapping[str, Any]]) -> Point:
        values = {metric: self._interval([point.get(metric) for point in points]) for metric, _, _ in MEASURES}
        budgets = [point.get(BUDGET) for point in points]
        known = [float(budget) for budget in budgets if budget is not None]
        return Point(step, mean(known) if len(known) == len(budgets) else None, values, self.units)

    def _interval(self, values: Sequence[float | None]) -> Interval:
        """Return mean and interval over bases, or over the runs of one base; NaN if one was not finite."""
        numbers = [math.nan if value is None else float(value) for value in values]
        bases = dict.fromkeys(self.bases)
        if len(bases) > 1:
            numbers = [mean([n for n, of in zip(numbers, self.bases, strict=True) if of == base]) for base in bases]
        return mean_interval(numbers) if all(map(math.isfinite, numbers)) else Interval(*[math.nan] * 3)

    @property
    def units(self) -> int:
        """How many independent values each mean is over."""
        bases = len(set(self.bases))
        return bases if bases > 1 else len(self.curves)

    @property
    def title(self) -> str:
        """The label with the number of runs."""
        bases, runs = len(set(self.bases)), len(self.curves)
        if runs == 1:
            return self.label
        return f"{self.label} ({f'{bases} bases, ' if bases > 1 else ''}{runs} runs)"


def group_runs(runs: Sequence[RunSummary], apart: Sequence[str] = ()) -> list[RunGroup]:
    """Return runs in groups of equal configurations, apart from seeds, bases and what changes no result.

    Args:
        runs: Runs whose configurations can be read, with an evaluation each.
        apart: Fields of ``REPEATED`` that are to keep runs apart.
    """
    joined = tuple(path for path in REPEATED if path not in apart)
    fields = [path for path in _fields(runs) if path not in joined and not path.startswith(OF_THE_OUTPUT)]
    groups: dict[tuple[str, ...], list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(tuple(str(setting(run.config, path)) for path in fields), []).append(run)
    named_fields = [path for path in differing(runs) if path in fields]
    return [_group(members, named_fields, runs) for members in groups.values()]


def _fields(runs: Sequence[RunSummary]) -> list[str]:
    return list(dict.fromkeys(path for run in runs for path in run.config))


def _group(members: Sequence[RunSummary], named_fields: Sequence[str], runs: Sequence[RunSummary]) -> RunGroup:
    first = members[0].config
    parts = [(path, setting(first, path)) for path in named_fields]
    # A strategy's name says enough by itself.
    words = [
        str(value) if path.endswith(".type") else f"{short(path)}={value}" for path, value in parts if value is not None
    ]
    label = ", ".join(words) or str(first.get("sampler.type") or members[0].name)
    curves = [read_curve(label, run.path) for run in members]
    bases = tuple(str(run.config.get("model.path")) for run in members)
    return RunGroup(curves[0].label, bases, tuple(curves))


def write(groups: Sequence[RunGroup], file: Path, title: str) -> None:
    """Write the curves of groups of runs: a picture, or for ``.csv`` a table.

    Raises:
        ConfigError: For a format that is none of ``FORMATS``.
    """
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(
            "A plot is written as a picture or a table.",
            reason=f"{file} ends in '{file.suffix}'.",
            remedy=f"End its name in one of {', '.join(FORMATS)}.",
        )
    if file.suffix.lower() == ".csv":
        write_whole(file, table(groups))
    else:
        draw(groups, file, title)


def table(groups: Sequence[RunGroup]) -> str:
    """Return the means and ends of their intervals as CSV, a line per group, step and measure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["runs", "step", "sampled_responses", "metric", "mean", "low", "high", "of"])
    for group in groups:
        for point in group.points:
            for metric, value in point.values.items():
                ends = [_finite(end) for end in (value.mean, value.low, value.high)]
                budget = "" if point.budget is None else f"{point.budget:g}"
                writer.writerow([_cell(group.title), point.step, budget, metric, *ends, point.units])
    return out.getvalue()


def _finite(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def draw(groups: Sequence[RunGroup], file: Path, title: str) -> None:
    """Draw each measure over steps and over sampled responses, and accuracy against the entropy reached."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2, 4)
    for row, (budgeted, name) in enumerate(((False, "training step"), (True, "sampled responses"))):
        for axis, (metric, heading, unit) in zip(axes[row], MEASURES, strict=False):
            for number, group in enumerate(groups):
                _curve(axis, group, metric, budgeted=budgeted, colour=COLOURS[number % len(COLOURS)])
            axis.set(title=heading if row == 0 else "", ylabel=unit, xlabel=name)
            axis.set_ylim(0, 1.04 if unit.startswith("share") else 1.1 * max(axis.dataLim.y1, 1e-3))
    _against(axes[0][3], groups)
    for axis in figure.axes[:-1]:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    legend = axes[1][3]
    legend.set_axis_off()
    handles, labels = axes[0][0].get_legend_handles_labels()
    wrapped = ["\n".join(_lines(label)) for label in labels]
    legend.legend(handles, wrapped, frameon=False, loc="upper left", fontsize=9)
    legend.text(0, 0, _note(groups), transform=legend.transAxes, fontsize=8, color="#4c5a67", parse_math=False)
    # Text stays text in an SVG, and two drawings of the same runs are the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "saei"}), replacing(file) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)


def _curve(axis: Any, group: RunGroup, metric: str, *, budgeted: bool, colour: str) -> None:
    points = [point for point in group.points if not budgeted or point.budget is not None]
    places = [point.budget if budgeted else point.step for point in points]
    values = [point.values[metric] for point in points]
    axis.plot(places, [v.mean for v in values], "o-", markersize=3, color=colour, label=_plain(group.title))
    if group.units > 1:
        axis.fill_between(places, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.15, lw=0)
    if len(group.curves) > 1:
        for curve in group.curves:
            of_run = [(point.get(BUDGET) if budgeted else point["step"], point.get(metric)) for point in curve.points]
            way = [(place, value) for place, value in of_run if place is not None and value is not None]
            axis.plot([place for place, _ in way], [value for _, value in way], color=colour, alpha=0.4, lw=0.7)


def _against(axis: Any, groups: Sequence[RunGroup]) -> None:
    """Draw accuracy against the entropy reached: each run's way as a thin line, its end as a dot."""
    for number, group in enumerate(groups):
        colour = COLOURS[number % len(COLOURS)]
        for curve in group.curves:
            way = [(p.get(ENTROPY), p.get(ACCURACY)) for p in curve.points]
            way = [(x, y) for x, y in way if x is not None and y is not None]
            if way:
                axis.plot(*zip(*way, strict=True), color=colour, alpha=0.45, lw=0.9)
                axis.plot(*way[-1], "o", color=colour, markersize=6)
    axis.set(title="accuracy against the entropy reached", xlabel="probe entropy, nats per token", ylabel="share right")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1.04)


def _note(groups: Sequence[RunGroup]) -> str:
    lines = ["Clean view of held-out examples."]
    if any(group.units > 1 for group in groups):
        over = "bases" if any(len(set(group.bases)) > 1 for group in groups) else "runs"
        lines.append(f"Lines are means over {over}, thin ones single runs; bands 95 % t-intervals.")
    lines.append("A dot is where a run ended.")
    return "\n".join(line for text in lines for line in textwrap.wrap(text, 62))


def _plain(text: str) -> str:
    """Return a label that matplotlib takes for text alone: a dollar sign begins no formula."""
    printable = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
    return printable.replace("$", r"\$").lstrip("_") or " "


def _lines(text: str, width: int = 44) -> Iterable[str]:
    return textwrap.wrap(text, width)[:6] or [""]
