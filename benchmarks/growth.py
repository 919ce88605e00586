"""How cost grows with responses, image, response length and vocabulary: a shared prefix or one row per response.

The model of `scoring.py` is scored with gradient and attacked, both by this library, which computes a view's prompt
once for all of its responses or once for each. One size grows at a time, from 12 responses of 64 tokens, 256 image
tokens and a vocabulary of 4,096; half of the responses are attacked. Times are process CPU time on one thread, medians
of rounds in which the ways take turns. It writes a plot and the numbers behind it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scoring import build

from saei.diagnostics.bench import ATTACK, NAIVE_ATTACK, PLAIN, SHARED, passes
from saei.diagnostics.cost import retain_freed_memory, time_in_turns
from saei.diagnostics.synthetic import NoiseTask, draw_responses
from saei.interventions import Intervention

CPU = torch.device("cpu")
PIXELS_PER_TOKEN = 16
WIDTH, VISION_LAYERS = 96, 1
RESPONSES, IMAGE, TOKENS, VOCABULARY = "responses", "image tokens", "tokens of a response", "vocabulary"
BASE = {RESPONSES: 12, IMAGE: 256, TOKENS: 64, VOCABULARY: 4096}
AXES = {
    RESPONSES: (4, 8, 16, 32, 64),
    IMAGE: (64, 144, 256, 576, 1024),
    TOKENS: (32, 64, 128, 256, 512),
    VOCABULARY: (4096, 16_384, 65_536, 152_064),
}
"""Sizes along which one thing grows; numbers of image tokens are squares."""

LINES = {
    PLAIN: ("scoring and its backward pass, one row per response", "#d1495b", "-"),
    SHARED: ("the same, prompt computed once", "#2a9d8f", "-"),
    NAIVE_ATTACK: ("attack on half of the responses, one row per response", "#d1495b", "--"),
    ATTACK: ("the same, prompt computed once", "#2a9d8f", "--"),
}
"""Name, colour and stroke of each way."""


def measure(sizes: Mapping[str, int], rounds: int) -> dict[str, float]:
    """Return the median seconds of every way at one size."""
    with torch.random.fork_rng():
        policy, _ = build(WIDTH, VISION_LAYERS, sizes[TOKENS], sizes[VOCABULARY])
    view = policy.view(NoiseTask(NoiseTask.Config(side=PIXELS_PER_TOKEN * round(sizes[IMAGE] ** 0.5))).example(0))
    assert policy.image_tokens(view) == sizes[IMAGE]
    responses = draw_responses(policy, sizes[RESPONSES], sizes[TOKENS])
    ways = passes(policy, view, responses, Intervention())
    seconds = time_in_turns({name: ways[name] for name in LINES}, rounds, CPU)
    return {name: statistics.median(values) for name, values in seconds.items()}


def grow(base: Mapping[str, int], axes: Mapping[str, Sequence[int]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return sizes and seconds along each axis; a size on several axes is measured once."""
    known: dict[tuple[int, ...], dict[str, float]] = {}

    def point(sizes: dict[str, int]) -> dict[str, Any]:
        key = tuple(sizes.values())
        if key not in known:
            known[key] = measure(sizes, rounds)
        return {"sizes": sizes, "seconds": known[key]}

    return {axis: [point({**base, axis: value}) for value in values] for axis, values in axes.items()}


def per_response(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds that one more response adds, between the first and the last point."""
    first, last = points[0], points[-1]
    more = last["sizes"][RESPONSES] - first["sizes"][RESPONSES]
    return {name: (last["seconds"][name] - first["seconds"][name]) / more for name in first["seconds"]}


def plot(points: Mapping[str, Sequence[Mapping[str, Any]]], base: Mapping[str, int], file: Path) -> None:
    """Draw one panel per axis, both scales logarithmic."""
    figure = Figure(figsize=(9, 6.8), layout="constrained")
    responses, image, tokens, vocabulary = base.values()
    others = f"{responses} responses of {tokens} tokens, {image} image tokens, vocabulary {vocabulary:,}"
    figure.suptitle(
        f"One size grows, the others stay: {others}.\nAlong the thin lines cost is proportional.", fontsize=10
    )
    for axes, (axis, own) in zip(figure.subplots(2, 2, sharey=True).flat, points.items(), strict=True):
        sizes = [point["sizes"][axis] for point in own]
        for name, (label, colour, stroke) in LINES.items():
            axes.plot(sizes, [point["seconds"][name] for point in own], stroke, color=colour, marker=".", label=label)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="CPU seconds")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        low, high = axes.get_ylim()
        for start in (low * 10 ** (step / 2) for step in range(-8, 12)):
            axes.plot(sizes, [start * size / sizes[0] for size in sizes], color="#eeeeee", linewidth=0.8, zorder=0)
        axes.set_ylim(low, high)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


def show(found: Mapping[str, Any]) -> None:
    console = Console(width=120)
    console.print(f"CPU time on one thread, medians of {found['rounds']} rounds, torch {found['torch']}; milliseconds.")
    table = Table("what grows", "", *LINES, box=None)
    for axis, own in found["points"].items():
        for point in own:
            table.add_row(
                axis, f"{point['sizes'][axis]:,}", *(f"{1000 * point['seconds'][name]:.0f}" for name in LINES)
            )
        growth = (f"x {own[-1]['seconds'][name] / own[0]['seconds'][name]:.1f}" for name in LINES)
        table.add_row("", f"x {own[-1]['sizes'][axis] / own[0]['sizes'][axis]:.0f}", *growth)
    table.add_row("one response more", "", *(f"{1000 * found['per_response'][name]:.1f}" for name in LINES))
    console.print(table)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, write the plot and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for axis in AXES:
        name = "--" + axis.replace(" ", "-")
        parser.add_argument(name, type=int, nargs="+", default=AXES[axis], dest=axis, help="sizes along this axis")
    parser.add_argument("--base", type=int, nargs=4, default=list(BASE.values()), help="the sizes that do not grow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--png", type=Path, default=Path("growth.png"), help="plot to write")
    parser.add_argument("--json", type=Path, default=Path("growth.json"), help="numbers to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kept = retain_freed_memory()
    base = dict(zip(BASE, options.base, strict=True))
    points = grow(base, {axis: getattr(options, axis) for axis in AXES}, options.rounds)
    found = {
        "width": WIDTH,
        "vision_layers": VISION_LAYERS,
        "base": base,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "allocator_keeps_memory": kept,
        "points": points,
        "per_response": per_response(points[RESPONSES]),
    }
    show(found)
    plot(points, base, options.png)
    options.json.write_text(json.dumps(found, indent=2))
    return found


if __name__ == "__main__":
    main()
