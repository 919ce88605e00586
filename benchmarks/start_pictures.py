"""The two pictures of the start page and of the README: what one step of the intervention does, and the demo's curves.

`python benchmarks/start_pictures.py intervention docs/intervention.svg` attacks held-out charts of `lock-in` on the
base that ships with the package, and shows the first, which is not chosen: a minute. `python
benchmarks/start_pictures.py demo docs/demo.svg --runs runs/demo` draws the runs that `saei demo` has made. Both are SVG
with text that is large enough on a phone, and follow the reader's light or dark theme.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil
from operator import gt
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from saei.cli.demo import SCENES
from saei.config.run import RunConfig, validate
from saei.engine.setup import Strategies, build_strategies, load_policy
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.interventions.outcome import Outcome
from saei.policy import Policy
from saei.policy.pixels.space import to_image
from saei.report.compare import Curve, read_curve
from saei.report.demo import ACCURACY, ENTROPY, STEPS, Panel
from saei.runtime.seeds import GroupSources
from saei.types import Response, View

WIDTH, EDGE = 640, 24
ENLARGED = 32
"""Factor on the difference: 4/255 becomes half of the range around grey."""

CHARTS, FRESH = 64, 16
"""What came of the attack is counted on this many held-out charts, by as many fresh responses to each view: not on
the responses that it looked at."""

STYLE = """
  .card { fill: #ffffff; stroke: #d5dbe1 } .ink { fill: #1f2933 } .dim { fill: #4c5a67 } .axis { stroke: #b8c1ca }
  .hot { fill: #d1495b } .line { fill: none; stroke-width: 4 } .run { fill: none; stroke-width: 1.5; opacity: .6 }
  .GRPO { stroke: #4c5a67 } .SaEI { stroke: #d1495b }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1b2129; stroke: #3a4450 } .ink { fill: #e8ecf0 } .dim { fill: #aab4bf } .axis { stroke: #4d5965 }
    .hot { fill: #f0707f } .GRPO { stroke: #aab4bf } .SaEI { stroke: #f0707f }
  }
"""


class Drawing:
    """An SVG that grows downwards.

    Attributes:
        top: Where the next part begins.
    """

    def __init__(self, description: str) -> None:
        self.top = 16.0
        self._description = description
        self._parts: list[str] = []

    def add(self, part: str) -> None:
        """Add an element."""
        self._parts.append(part)

    def text(self, x: float, y: float, words: str, style: str = "ink", *, size: int = 20, more: str = "") -> None:
        """Add a line of text, which is escaped."""
        self.add(f'<text x="{x:g}" y="{y:g}" class="{style}" font-size="{size}" {more}>{escape(words)}</text>')

    def line(self, words: str, style: str = "ink", *, size: int = 20, more: str = "") -> None:
        """Add a line of text below what is there."""
        self.top += 1.4 * size
        self.text(EDGE, self.top, words, style, size=size, more=more)

    def write(self, file: Path) -> None:
        """Write the file."""
        height = round(self.top + 20)
        file.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{escape(self._description)}" font-family="system-ui, sans-serif">\n'
            f"<style>{STYLE}</style>\n"
            f'<rect class="card" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n",
            encoding="utf-8",
        )


@dataclass(frozen=True, slots=True)
class Count:
    """Fresh responses to one kind of view, over all charts.

    Attributes:
        name: Which view.
        right: Share of them that are right.
        careful: Share of them that go step by step.
    """

    name: str
    right: float
    careful: float


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """What the picture of the intervention shows.

    Attributes:
        clean: The clean view of the first chart.
        view: The view of it that the attack made.
        pieces: The text of each token of the first response to the clean one.
        entropy_T: Its tokens' entropies, in nats.
        selected_T: Which of them the criterion looked at.
        rises: On how many charts J rose.
        gain: By how much it rose, as a share of its mean before.
        counts: What fresh responses do.
    """

    clean: View
    view: View
    pieces: list[str]
    entropy_T: Tensor
    selected_T: Tensor
    rises: int
    gain: float
    counts: list[Count]


def look(config: RunConfig, attack_step: str) -> Shown:
    """Attack held-out charts as training would, once by entropy and once by a random direction, and count answers."""
    strategies = build_strategies(config)
    policy = load_policy(config, strategies.template)
    views = [policy.view(strategies.task.example(number, "eval"), index=number) for number in range(CHARTS)]
    step = StepContext(policy, progress=0.0, sources=GroupSources(0, "start"), traced=True)
    responses = step.sample(views, [6] * CHARTS)

    def moved_by(criterion: str) -> list[Outcome]:
        settings = {"attack": {"step": attack_step}, "criterion": criterion, "measure": "always"}
        context = StepContext(policy, progress=0.0, sources=GroupSources(0, criterion), traced=True)
        return Intervention(InterventionConfig.model_validate(settings)).apply(views, responses, context)

    outcomes, controls = moved_by("entropy"), moved_by("random-direction")
    before, after = ([outcome.metrics[name] for outcome in outcomes] for name in ("criterion", "criterion_after"))
    record, first = outcomes[0].record, responses[0][0]
    assert record is not None
    assert record.trace is not None
    return Shown(
        clean=views[0],
        view=outcomes[0].view,
        pieces=_pieces(policy, first),
        entropy_T=first.entropy_T,
        selected_T=record.trace.selected_NT[0][: len(first)],
        rises=sum(map(gt, after, before)),
        gain=sum(after) / sum(before) - 1,
        counts=[
            _count(strategies, policy, name, looked_at)
            for name, looked_at in (
                ("clean", views),
                ("moved", [outcome.view for outcome in outcomes]),
                ("random", [outcome.view for outcome in controls]),
            )
        ],
    )


def _count(strategies: Strategies, policy: Policy, name: str, views: Sequence[View]) -> Count:
    """Return how many of fresh responses to some views are right and go step by step."""
    context = StepContext(policy, progress=0.0, sources=GroupSources(0, "fresh"))
    right = careful = 0
    for view, drawn in zip(views, context.sample(views, [FRESH] * len(views)), strict=True):
        for response in drawn:
            grade = strategies.reward.grade(view.example, response.text, truncated=response.truncated)
            right += grade.correct
            careful += strategies.task.strategy(view.example, response.text) == "steps"
    count = Count(name, right / (len(views) * FRESH), careful / (len(views) * FRESH))
    print(count)
    return count


def _pieces(policy: Policy, response: Response) -> list[str]:
    """Return the text that each token adds."""
    decode = policy.parts.tokenizer.decode
    texts = [decode(response.ids_T[:end].tolist()) for end in range(len(response) + 1)]
    return [after[len(before) :] for before, after in pairwise(texts)]


def draw_intervention(shown: Shown, file: Path, attack_step: str) -> None:
    """Draw the pictures, the first response with its selected tokens, and what came of it."""
    example = shown.clean.example
    drawing = Drawing(
        f"A chart, the same chart moved by {attack_step}, and their difference enlarged; below, a response whose "
        "moderately uncertain tokens are underlined, and how often new answers are right and go step by step."
    )
    side = (WIDTH - 4 * EDGE) / 3
    start, moved = shown.clean.canvases[0], shown.view.canvases[0]
    pictures = [
        ("what it sees", start),
        (f"moved by {attack_step}", moved),
        (f"difference \N{MULTIPLICATION SIGN} {ENLARGED}", ((moved - start) * ENLARGED / 2 + 0.5).clamp(0, 1)),
    ]
    for number, (title, pixels_CHW) in enumerate(pictures):
        left = EDGE + number * (side + EDGE)
        drawing.text(left, drawing.top + 20, title, size=20)
        drawing.add(
            f'<image x="{left:g}" y="{drawing.top + 30:g}" width="{side:g}" height="{side:g}" '
            f'style="image-rendering: pixelated" href="{_data_url(pixels_CHW)}"/>'
        )
    drawing.top += 30 + side + 8
    drawing.line(f"“{example.question}” Right: {example.answer}.", more='font-weight="600"')
    drawing.line("One of six answers, shaded where the model is uncertain.", "dim")
    drawing.line("The step raises the entropy of the underlined tokens:", "dim")
    _tokens(drawing, shown)
    drawing.line(f"Over {CHARTS} charts it rises on {shown.rises}, by {shown.gain:.0%} on average.")
    drawing.top += 12
    drawing.line(f"{FRESH} new answers to each of {CHARTS} charts", more='font-weight="600"')
    places = (EDGE, 320, 440)
    drawing.top += 28
    for left, heading in zip(places[1:], ("right", "step by step"), strict=True):
        drawing.text(left, drawing.top, heading, "dim")
    names = {"clean": "clean", "moved": "moved, entropy raised", "random": "moved, random direction"}
    for count in shown.counts:
        drawing.top += 28
        for left, words in zip(places, (names[count.name], f"{count.right:.0%}", f"{count.careful:.1%}"), strict=True):
            drawing.text(left, drawing.top, words)
    drawing.write(file)


def _tokens(drawing: Drawing, shown: Shown) -> None:
    """Write tokens in a fixed grid, shaded by entropy, the selected ones underlined."""
    size, advance = 19, 11.4
    left, top = float(EDGE), drawing.top + 36
    most = float(shown.entropy_T.max()) or 1.0
    for piece, entropy, selected in zip(shown.pieces, shown.entropy_T.tolist(), shown.selected_T.tolist(), strict=True):
        text = piece.strip("\n") or "⏎"
        gap = advance if text.startswith(" ") and left > EDGE else 0.0
        text = text.strip() or "·"
        width = advance * len(text)
        if left + gap + width > WIDTH - EDGE:
            left, gap, top = float(EDGE), 0.0, top + 36
        left += gap
        drawing.add(
            f'<rect class="hot" x="{left:g}" y="{top - 20:g}" width="{width:g}" height="27" rx="3" '
            f'opacity="{0.45 * (entropy / most) ** 0.5:.2f}"/>'
        )
        if selected:
            drawing.add(f'<rect class="hot" x="{left:g}" y="{top + 8:g}" width="{width:g}" height="4"/>')
        more = f'textLength="{width:g}" lengthAdjust="spacingAndGlyphs" font-family="ui-monospace, monospace"'
        drawing.text(left, top, text, size=size, more=more)
        left += width
    drawing.top = top + 14


def _data_url(pixels_CHW: Tensor) -> str:
    """Return a picture as a URL that holds it."""
    stream = io.BytesIO()
    to_image(pixels_CHW.detach().cpu()).quantize(128, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def draw_demo(curves: Sequence[Curve], file: Path) -> None:
    """Draw accuracy, strategy and entropy of all runs on lock-in, thin, and the mean of each arm."""
    arms = {name: [curve for curve in curves if curve.label.startswith(name)] for name in ("GRPO", "SaEI")}
    drawing = Drawing(
        "Curves of the demonstration: accuracy, share of answers step by step, and entropy over the steps."
    )
    drawing.line("lock-in: a good strategy, known and never used", more='font-weight="600"')
    drawing.top += 28
    for number, (name, of_arm) in enumerate(arms.items()):
        left = EDGE + 300 * number
        drawing.add(f'<path class="line {name}" d="M{left} {drawing.top - 6:g}h36"/>')
        label = "plain GRPO" if name == "GRPO" else of_arm[0].label
        drawing.text(left + 46, drawing.top, f"{label}, mean of {len(of_arm)}", size=20)
    width = (WIDTH - 3 * EDGE) / 2
    for number, panel in enumerate((ACCURACY, STEPS, ENTROPY)):
        row, column = divmod(number, 2)
        _panel(drawing, panel, arms, EDGE + column * (width + EDGE), drawing.top + 24 + row * 270, width)
    left, top = EDGE + width + EDGE, drawing.top + 24 + 270
    for number, words in enumerate(
        ("Who guesses is unsure, who", "works it out is not: where", "a run escapes, its entropy", "falls.")
    ):
        drawing.text(left, top + 70 + 28 * number, words, "dim")
    drawing.top += 24 + 2 * 270 - 36
    drawing.write(file)


def _panel(drawing: Drawing, panel: Panel, arms: dict[str, list[Curve]], left: float, top: float, width: float) -> None:
    """Draw one number over the steps into a box of this width and 250 high."""
    metric, title, unit = panel
    points = {name: [[(p["step"], p.get(metric) or 0.0) for p in c.points] for c in cs] for name, cs in arms.items()}
    every = [point for runs in points.values() for run in runs for point in run]
    last = max(step for step, _ in every)
    highest = 1.0 if unit.startswith("share") else ceil(10 * max(value for _, value in every)) / 10
    x0, y0, w, h = left + 46, top + 34, width - 56, 166

    def path(run: Sequence[tuple[float, float]]) -> str:
        places = [f"{x0 + w * step / last:.1f} {y0 + h * (1 - value / highest):.1f}" for step, value in run]
        return "M" + "L".join(places)

    drawing.text(left, top + 20, f"{title}, nats" if unit.startswith("nats") else title, size=20)
    for share in (0.0, 0.5, 1.0):
        y = y0 + h * (1 - share)
        drawing.add(f'<path class="axis" d="M{x0:g} {y:g}h{w:g}"/>')
        drawing.text(x0 - 6, y + 6, f"{share * highest:.1f}", "dim", size=17, more='text-anchor="end"')
    for name, runs in points.items():
        for run in runs if len(runs) > 1 else ():
            drawing.add(f'<path class="run {name}" d="{path(run)}"/>')
        mean = [(of_step[0][0], sum(value for _, value in of_step) / len(runs)) for of_step in zip(*runs, strict=False)]
        drawing.add(f'<path class="line {name}" d="{path(mean)}"/>')
    drawing.text(x0, y0 + h + 24, "0", "dim", size=17)
    drawing.text(x0 + w, y0 + h + 24, f"step {last}", "dim", size=17, more='text-anchor="end"')


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=["intervention", "demo"])
    parser.add_argument("svg", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"), help="folder of the demonstration's runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    scene = SCENES[-1]
    if options.picture == "intervention":
        torch.set_num_threads(1)
        config = validate({"task": {"type": scene.task}, **scene.settings})
        draw_intervention(look(config, scene.step), options.svg, scene.step)
        return
    curves = [
        read_curve(label, options.runs / f"{scene.task}-{sampler['type']}-steps{scene.steps}-seed{seed}")
        for label, sampler in scene.arms.items()
        for seed in range(options.seeds)
    ]
    draw_demo(curves, options.svg)


if __name__ == "__main__":
    main()
