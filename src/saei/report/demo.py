"""The demonstration's picture: for each task a question, the answers, and the runs side by side."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from saei.evaluation.metrics import mean
from saei.evaluation.statistics.intervals import proportion_interval
from saei.report.compare import COLOURS, Curve, read_curve
from saei.runtime.files import replacing
from saei.runtime.run_dir import RunDir
from saei.runtime.samples import GroupSample

Panel = tuple[str, str, str]
"""Metric, title and unit."""

ACCURACY: Panel = ("eval/accuracy", "sampled accuracy", "share right")
ENTROPY: Panel = ("probe/entropy", "probe entropy", "nats per token")
ZERO_VARIANCE: Panel = ("probe/zero_variance", "groups all right or all wrong", "share of examples")
STEPS: Panel = ("probe/strategy/steps", "answered step by step", "share of responses")

ESCAPED = 0.7
"""Sampled accuracy on lock-in above which a run has left the poor strategy, which alone reaches about .2."""


@dataclass(frozen=True, slots=True)
class Story:
    """One task of the demonstration.

    Attributes:
        title: What happens there, in a line.
        caption: What has to be known to read the row.
        panels: What is drawn over the training steps.
        runs: Label and folder of each run; those of equal labels are the seeds of an arm. What the first of each arm
            answered is shown, and the pictures of the last arm's.
    """

    title: str
    caption: str
    panels: tuple[Panel, ...]
    runs: tuple[tuple[str, Path], ...]

    @property
    def curves(self) -> list[Curve]:
        """The evaluations of each run."""
        return [read_curve(label, folder) for label, folder in self.runs]

    @property
    def firsts(self) -> dict[str, Path]:
        """The first run of each arm."""
        firsts: dict[str, Path] = {}
        for label, folder in self.runs:
            firsts.setdefault(label, folder)
        return firsts


def draw(stories: Sequence[Story], file: Path) -> None:
    """Write a PNG with a row per story."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.5, 5.1 * len(stories)), layout="constrained")
    for part, story in zip(figure.subfigures(len(stories), 1, squeeze=False)[:, 0], stories, strict=True):
        part.suptitle(story.title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        part.supxlabel(textwrap.fill(story.caption, 190), fontsize=9, x=0.01, ha="left", color="#4c5a67")
        left, right = part.subfigures(1, 2, width_ratios=(1.15, len(story.panels)))
        _example(left, story)
        axes = right.subplots(1, len(story.panels))
        for axis, panel in zip(axes, story.panels, strict=True):
            draw_curves(axis, panel, story.curves)
        axes[0].legend(frameon=False)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=110)


def rows(story: Story) -> list[tuple[str, ...]]:
    """Return label and first → last value of each panel's number, one row per run."""
    curves = story.curves
    labels = [curve.label for curve in curves]
    table = []
    for number, curve in enumerate(curves):
        # Where an arm has several runs, each has its number in the arm.
        among = labels[: number + 1].count(curve.label)
        label = f"{curve.label}, run {among}" if labels.count(curve.label) > 1 else curve.label
        first, last = curve.points[0], curve.points[-1]
        table.append((label, *(f"{_text(first, metric)} → {_text(last, metric)}" for metric, _, _ in story.panels)))
    return table


def escapes(story: Story) -> list[tuple[str, ...]]:
    """Return one row per arm: its label, how many of its runs ended above ``ESCAPED``, the exact 95 % interval."""
    arms: dict[str, list[bool]] = {}
    for curve in story.curves:
        accuracy = curve.points[-1].get(ACCURACY[0])
        arms.setdefault(curve.label, []).append(accuracy is not None and accuracy > ESCAPED)
    table: list[tuple[str, ...]] = []
    for label, escaped in arms.items():
        interval = proportion_interval(sum(escaped), len(escaped))
        table.append((label, f"{sum(escaped)} of {len(escaped)}", f"{interval.low:.2f} to {interval.high:.2f}"))
    return table


def _text(point: Any, metric: str) -> str:
    """Return a number: a strategy that no response took has none and counts as 0, one that was not finite is none."""
    value = point.get(metric, 0.0)
    return "none" if value is None else f"{value:.3f}"


def draw_curves(axis: Any, panel: Panel, curves: Sequence[Curve]) -> None:
    """Draw a number over the steps: each run thin, and the mean of its arm's runs."""
    metric, name, unit = panel
    arms: dict[str, list[dict[int, float | None]]] = {}
    for curve in curves:
        values = {point["step"]: point.get(metric, 0.0) for point in curve.points}
        arms.setdefault(curve.label, []).append(values)
    for colour, (label, runs) in zip(COLOURS, arms.items(), strict=False):
        if len(runs) > 1:
            for values in runs:
                axis.plot(list(values), list(values.values()), linewidth=1, alpha=0.55, color=colour)
            label = f"{label}, mean of {len(runs)}"
        steps = [step for step in runs[0] if all(step in values for values in runs)]
        means = [_mean([values[step] for values in runs]) for step in steps]
        axis.plot(steps, means, marker="o", markersize=3.5, linewidth=2.5, color=colour, label=label)
    axis.set(title=name, ylabel=unit, xlabel="training step")
    axis.set_ylim(0, 1.04 if unit.startswith("share") else 1.15 * max(axis.dataLim.y1, 1e-6))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, none where a value was not finite."""
    finite = [value for value in values if value is not None]
    return mean(finite) if len(finite) == len(values) else None


def _example(part: Any, story: Story) -> None:
    """Show a group of the last step: the views, the question, and what each run answered to the clean one."""
    pictures, text = part.subfigures(2, 1, height_ratios=(1, 1.1))
    views = _views(list(story.firsts.values())[-1])
    for axis, (name, image) in zip(pictures.subplots(1, max(2, len(views))), views.items(), strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    for axis in pictures.axes:
        axis.set_axis_off()
    lines: list[str] = []
    for label, folder in story.firsts.items():
        group = _last_group(folder)
        if group is None:
            continue
        lines = lines or [f"“{group.question}”  Right: {group.answer}", ""]
        lines += [f"{label}, last step:", *textwrap.wrap(_printable(group.responses[0].text), 44), ""]
    text.text(0.02, 0.98, "\n".join(lines), va="top", fontsize=8.5, family="monospace", parse_math=False)


def _printable(text: str) -> str:
    """Return a policy's text with a mark for each character that no font can draw."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _last_group(run: Path) -> GroupSample | None:
    """Return the first training group that the last evaluation step kept, None if there is none."""
    groups = [group for group in RunDir(run).samples()[0] if group.source == "training" and group.responses]
    return next((group for group in groups if group.step == groups[-1].step), None)


def _views(run: Path) -> dict[str, Image.Image]:
    """Return the views of that group by origin."""
    group = _last_group(run)
    views = group.views if group else ()
    return {view.origin: Image.open(io.BytesIO(view.pictures[0])).convert("RGB") for view in views if view.pictures}
