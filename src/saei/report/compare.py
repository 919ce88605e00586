"""Runs side by side: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.runtime.files import replacing
from saei.runtime.run_dir import RunDir

PANELS = (
    ("eval/accuracy", "sampled accuracy", "share right"),
    ("probe/entropy", "probe entropy", "nats per token"),
    ("probe/distinct_answers", "distinct answers", "per example"),
    ("probe/zero_variance", "zero-variance groups", "share of examples"),
)
"""Metric, title and unit of each panel; all on the clean view of held-out examples."""

COLOURS = ("#4c5a67", "#d1495b", "#2a9d8f", "#e9a03b", "#7a5195", "#3d7ea6")


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's evaluations."""

    label: str
    points: tuple[Mapping[str, Any], ...]


def read_curve(label: str, run: Path) -> Curve:
    """Return a run's evaluations, in the order of steps."""
    return Curve(label, tuple(line for line in RunDir(run).metrics() if "eval/accuracy" in line))


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


def _text(value: float | None) -> str:
    """Return a number, ``none`` for one that was not finite."""
    return "none" if value is None else f"{value:.3f}"
