"""Runs and evaluations side by side: tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.evaluation.metrics import mean
from saei.evaluation.statistics.comparison import RunSet
from saei.evaluation.statistics.pass_at import chosen_ks, pass_at
from saei.runtime.files import replacing
from saei.runtime.run_dir import RunDir

PANELS = (
    ("eval/accuracy", "sampled accuracy", "share right"),
    ("probe/entropy", "probe entropy", "nats per token"),
    ("probe/distinct_answers", "distinct answers", "per example"),
    ("probe/zero_variance", "zero-variance groups", "share of examples"),
)
"""Metric, title and unit of each panel; all on the clean view of held-out examples."""

BUDGET = "train/budget"
"""Responses sampled so far; runs of one budget are compared, whatever their steps."""

COLOURS = ("#4c5a67", "#d1495b", "#2a9d8f", "#e9a03b", "#7a5195", "#3d7ea6")


STEERED = "entropy steered"
"""What is added to the label of a run whose entropy a strategy steered, and is no evidence against collapse."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's evaluations."""

    label: str
    points: tuple[Mapping[str, Any], ...]


def read_curve(label: str, run: Path) -> Curve:
    """Return a run's evaluations, in the order of steps; the label says so if its entropy was steered.

    An evaluation has the budget of responses that were sampled up to its step, also before the first one.
    """
    lines = RunDir(run).metrics()
    if entropy_steered(lines):
        label = f"{label} ({STEERED})"
    return Curve(label, tuple(with_budget(line) for line in lines if "eval/accuracy" in line))


def entropy_steered(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a run's metrics say that a strategy steered its entropy; earlier runs have the control probe's."""
    return any("train/entropy_steered" in line or "control/entropy" in line for line in lines)


def with_budget(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a step's metrics with the budget at its end: nothing was sampled before the first step."""
    return {BUDGET: 0.0 if line["step"] == 0 else None, **line}


def plot(curves: Sequence[Curve], file: Path, title: str) -> None:
    """Draw one panel per number over training steps and write a PNG; runs of one label share its colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    labels = list(dict.fromkeys(curve.label for curve in curves))
    for axis, (metric, name, unit) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for curve in curves:
            colour = COLOURS[labels.index(curve.label) % len(COLOURS)]
            steps = [point["step"] for point in curve.points]
            values = [point[metric] for point in curve.points]
            axis.plot(steps, values, marker="o", markersize=3, color=colour, label=curve.label)
        axis.set(title=name, ylabel=unit, xlabel="training step")
        axis.set_ylim(0, 1.04 * max(axis.dataLim.y1, 1.0 if unit.startswith("share") else 0.0))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    lines, names = figure.axes[0].get_legend_handles_labels()
    first_of_each = dict(zip(reversed(names), reversed(lines), strict=True))
    figure.axes[0].legend([first_of_each[label] for label in labels], labels, frameon=False)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def rows(curves: Sequence[Curve]) -> list[tuple[str, ...]]:
    """Return label and first → last value of each panel's number, one row per run."""
    table = []
    for curve in curves:
        first, last = curve.points[0], curve.points[-1]
        table.append((curve.label, *(f"{_text(first[metric])} → {_text(last[metric])}" for metric, _, _ in PANELS)))
    return table


def pass_curve(run_set: RunSet) -> dict[int, list[float]]:
    """Return pass@k of each run of a set, by k; empty for one response each."""
    n = min(len(example.correct) for run in run_set.runs for example in run.examples)
    return {
        k: [
            mean([pass_at(k, len(example.correct), example.correct_count) for example in run.examples])
            for run in run_set.runs
        ]
        for k in chosen_ks((), n)
    }


def draw_pass_curves(run_sets: Sequence[RunSet], file: Path, title: str) -> None:
    """Draw the mean pass@k curve of each set, its runs as thin lines, and write a PNG.

    The curves show whether a method widens what can be solved, or only sharpens it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, run_set in enumerate(run_sets):
        colour, curve = COLOURS[number % len(COLOURS)], pass_curve(run_set)
        if len(run_set.runs) > 1:
            axis.plot(list(curve), list(curve.values()), color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(list(curve), [mean(values) for values in curve.values()], "o-", color=colour, label=run_set.name)
    axis.set_xscale("log", base=2)
    axis.set(title=title, xlabel="k", ylabel="pass@k")
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def _text(value: float | None) -> str:
    """Return a number, ``none`` for one that was not finite."""
    return "none" if value is None else f"{value:.3f}"
