"""Curves as SVG inside a page, in the page's own colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from saei.report.page.folder import RunFolder, value
from saei.report.page.html import number, text
from saei.report.page.panels import Panel

INK, GRID = "#123456", "#234567"
SERIES = ("#a10001", "#a10002", "#a10003", "#a10004", "#a10005", "#a10006")
"""Stand for the colours of the page, which its style sheet names for light and for dark."""

ZIGZAG = 60
"""Points of a curve from which on its running mean is drawn, with the points themselves as a faint line."""

WINDOW = 20
"""A running mean is over this part of a curve's points, so that 200 steps are smoothed over 11."""

MOST_POINTS = 400
"""Of a curve; more are more than the width of a page shows."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A panel on the page.

    Attributes:
        panel: What it shows.
        svg: The drawing.
        rows: Step and values, for those who read numbers.
        labels: Names of the values.
        note: What was smoothed, empty if nothing was.
    """

    panel: Panel
    svg: Markup
    rows: list[tuple[str, ...]]
    labels: list[str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its name, its points, and the place and the two ends of each interval in its band."""

    label: str
    points: Points
    band: Sequence[tuple[float, float, float]] = ()


def draw_panel(panel: Panel, folders: Sequence[RunFolder], names: Sequence[str] = ()) -> Drawing:
    """Return a panel of one run, or of several in the same axes.

    Args:
        panel: What is drawn.
        folders: The runs.
        names: What each of several runs is called.
    """
    series = []
    for folder, run_name in zip(folders, names or [folder.name for folder in folders], strict=True):
        lines = folder.lines
        if panel.together:
            complete = (line for line in lines if all(value(line, metric) is not None for metric in panel.metrics))
            lines = tuple(complete) or lines
        for metric, label in panel.metrics.items():
            points, band = [], []
            for line in lines:
                number_here = value(line, metric)
                if number_here is not None:
                    points.append((float(line["step"]), number_here))
                    interval = panel.interval(folder, line) if panel.interval else None
                    if interval is not None:
                        band.append((float(line["step"]), interval.low, interval.high))
            if points:
                name = label if len(folders) == 1 else run_name
                if len(folders) > 1 and len(panel.metrics) > 1:
                    name = f"{run_name}, {label}"
                series.append(Series(name, points, band))
    rows = _rows(series)
    said = f"{panel.title}, {panel.unit}, over training steps. " + " ".join(
        f"{each.label}: from {number(each.points[0][1])} to {number(each.points[-1][1])}." for each in series
    )
    longest = max((len(each.points) for each in series), default=0)
    note = (
        f"Smoothed, a mean over {_window(longest)} values; the faint line has the values themselves."
        if longest >= ZIGZAG
        else ""
    )
    svg = _svg(series, said, share=panel.unit.startswith("share"))
    return Drawing(panel, svg, rows, [each.label for each in series], note)


def _window(points: int) -> int:
    """Return how many points a running mean is over, an odd number."""
    return points // WINDOW // 2 * 2 + 1


def smoothed(points: Points, window: int) -> Points:
    """Return the running mean of a curve; near its ends it is over fewer points, as many on either side."""
    values = [y for _, y in points]
    means = []
    for n, (x, _) in enumerate(points):
        reach = min(window // 2, n, len(points) - 1 - n)
        near = values[n - reach : n + reach + 1]
        means.append((x, sum(near) / len(near)))
    return means


def _rows(series: Sequence[Series], most: int = 13) -> list[tuple[str, ...]]:
    """Return some steps with the value of each curve, evenly chosen."""
    steps = sorted({step for each in series for step, _ in each.points})
    if len(steps) > most:
        steps = [steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)]
    by_step = [dict(each.points) for each in series]
    return [(f"{step:.0f}", *(number(values.get(step)) for values in by_step)) for step in steps]


def _svg(series: Sequence[Series], said: str, *, share: bool) -> Markup:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.5))
    axis = figure.add_axes((0.12, 0.17, 0.86, 0.79))
    lines = []
    for n, each in enumerate(series):
        colour, points = SERIES[n % len(SERIES)], _thinned(each.points)
        if len(each.points) >= ZIGZAG:
            axis.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, alpha=0.3)
            points = _thinned(smoothed(each.points, _window(len(each.points))))
        xs, ys = zip(*points, strict=True)
        few = len(points) < 30
        style = ("-", "--", ":")[n // len(SERIES) % 3] if n >= len(SERIES) else ("-", "--", "-.", ":")[n % 4]
        lines += axis.plot(xs, ys, style, color=colour, linewidth=1.6, marker="o" if few else None, markersize=3)
        if each.band:
            places, low, high = zip(*each.band, strict=True)
            axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    dress(axis)
    if share:
        axis.set_ylim(-0.02, 1.02)
    elif all(y >= 0 for each in series for _, y in each.points):
        axis.set_ylim(bottom=0)
    if len(series) > 1:
        # With the lines given, for the bands would be labelled too.
        labels = [plain(each.label) for each in series]
        axis.legend(lines, labels, frameon=False, fontsize=9, labelcolor=INK, loc="best")
    axis.set_xlabel("training step", color=INK, fontsize=9)
    return inlined(figure, said)


def draw_marks(marks: Mapping[str, Sequence[int]], last: int) -> Markup:
    """Return a strip with a row per kind of event and a mark at each of its steps."""
    from matplotlib.figure import Figure

    height = 0.6 + 0.32 * len(marks)
    figure = Figure(figsize=(9.2, height))
    axis = figure.add_axes((0.11, 0.48 / height, 0.87, 1 - 0.54 / height))
    for row, (name, steps) in enumerate(marks.items()):
        axis.plot(steps, [row] * len(steps), "|", color=SERIES[row % len(SERIES)], markersize=9, label=name)
    dress(axis)
    axis.set_xlim(-0.5, max(1, last) + 0.5)
    axis.set_ylim(len(marks) - 0.5, -0.5)
    axis.set_yticks(range(len(marks)), [plain(name) for name in marks], color=INK)
    axis.set_xlabel("training step", color=INK, fontsize=9)
    said = "Steps at which something was dropped, closed, scaled, cut off or at its limit. " + " ".join(
        f"{name}: {len(steps)} steps." for name, steps in marks.items()
    )
    return inlined(figure, said, wide=True)


def dress(axis: Any, *, whole: bool = True) -> None:
    """Give an axis the page's grid and colours.

    Args:
        axis: Of matplotlib.
        whole: Whether its horizontal ticks are whole numbers, as steps are.
    """
    from matplotlib.ticker import MaxNLocator

    if whole:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(color=GRID, linewidth=0.6)
    axis.tick_params(colors=INK, labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(INK)


def plain(label: str) -> str:
    """Return a label as matplotlib draws it: without mathematics."""
    return str(text(label))[:60].replace("$", "\\$")


def _thinned(points: Points) -> Points:
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(n * (len(points) - 1) / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]


def inlined(figure: Any, said: str, *, wide: bool = False) -> Markup:
    """Return a figure as an element of the page, in the page's colours and font."""
    import matplotlib

    stream = io.StringIO()
    # The salt makes the names of this figure's parts its own on the page, and the same every time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": said, "path.simplify_threshold": 1.0}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"<style[^>]*>.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*">', "<g>", drawing)
    drawing = re.sub(r"<!--.*?-->\n?", "", drawing, flags=re.DOTALL)
    viewbox = re.search(r'viewBox="[^"]*"', drawing)
    opening = f'<svg class="{"wide" if wide else "curve"}" role="img" {viewbox[0] if viewbox else ""} aria-label="'
    links = ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    drawing = opening + str(escape(text(said))) + '"' + links + drawing[drawing.index(">") + 1 :]
    drawing = drawing.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    for n, colour in enumerate(SERIES, start=1):
        drawing = drawing.replace(colour, f"var(--s{n})")
    return Markup(re.sub(r"font: (\d+)px [^;\"]*", r"font: \1px inherit", drawing))
