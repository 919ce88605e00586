"""pass@k curves of evaluated sides in one picture: does a method widen what can be solved, or only sharpen it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saei.evaluation.metrics import mean
from saei.evaluation.statistics.comparison import Side
from saei.evaluation.statistics.pass_at import chosen_ks, pass_at
from saei.report.compare import COLOURS
from saei.runtime.files import replacing


def pass_curve(side: Side) -> dict[int, list[float]]:
    """Return pass@k of each run of a side, by k; empty for one response each."""
    n = min(len(one.correct) for run in side.runs for one in run.items)
    return {
        k: [mean([pass_at(k, len(one.correct), one.right) for one in run.items]) for run in side.runs]
        for k in chosen_ks((), n)
    }


def draw_pass_curves(sides: Sequence[Side], file: Path, title: str) -> None:
    """Draw the mean curve of each side, its runs as thin lines, and write a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, side in enumerate(sides):
        colour, curve = COLOURS[number % len(COLOURS)], pass_curve(side)
        if len(side.runs) > 1:
            axis.plot(list(curve), list(curve.values()), color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(list(curve), [mean(values) for values in curve.values()], "o-", color=colour, label=side.name)
    axis.set_xscale("log", base=2)
    axis.set(title=title, xlabel="k", ylabel="pass@k")
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)
