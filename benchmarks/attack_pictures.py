"""What each attack and each control does to a picture: one sheet, for `docs/attacks.md`.

The built-in model looks at two examples of a task and answers each four times; every listed attack then moves the first
one's picture, as in training. Each cell shows the moved picture and beside it the change, grey where there is none and
black or white at the number of grey levels that its title names. `python benchmarks/attack_pictures.py --png
docs/attacks.png`, half a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from saei.config.registry import entries, load
from saei.config.run import RunConfig
from saei.engine.setup import build_strategies, load_policy
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.types import Response, View

COLUMNS, ZOOM, MARGIN, TITLE, COLOURS = 4, 2, 6, 20, 176
CONTROLLED = {"step": "8/255"}
"""The attack in whose place controls stand: a strong one, so that its change is seen."""
FIELDS: dict[str, dict[str, Any]] = {
    "best-of": {"of": {"type": "pgd", "step": "8/255", "radius": "8/255", "random_start": True}},
    "diffusion-noise": {"t0": 300},
    "fgsm": {"step": "8/255"},
    "noise": {"radius": "8/255"},
    "patch-mask": {"size": 8},
    "patches": {"of": {"type": "pgd", "step": "8/255"}, "size": 8},
    "pgd": {"step": "2/255", "steps": 4},
    "pgd-l2": {"step": "1/2", "radius": "2"},
    "repeat": {"of": {"type": "pgd", "step": "2/255"}, "times": 4},
    "torchattacks": {"name": "VMIFGSM"},
}
"""Settings whose effect is seen; the others have their defaults."""


def slots() -> list[tuple[str, dict[str, Any]]]:
    """Return the title and the intervention of each cell."""
    listed = [entry.name for entry in entries("attack") if entry.origin == "saei"]
    fields = {name: {"type": name, **FIELDS.get(name, {})} for name in listed}
    attacks = [name for name in listed if load("attack", name).Config(**fields[name]).build().moves == ("pixels",)]
    controls = [entry.name for entry in entries("control") if entry.origin == "saei"]
    cells: list[tuple[str, dict[str, Any]]] = [(name, {"attack": fields[name]}) for name in attacks]
    cells += [(f"control: {name}", {"attack": CONTROLLED, "control": name}) for name in controls]
    return cells


def image(pixels_CHW: Tensor) -> Image.Image:
    """Return a picture, each of its pixels as a square."""
    picture = to_image(pixels_CHW.detach().cpu())
    return picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST)


def draw_sheet(clean: View, cells: Sequence[tuple[str, View]], path: Path) -> None:
    """Draw the clean picture, and each moved one beside its change."""
    start = clean.canvases[0]
    width, height = (start.shape[-1] * ZOOM + MARGIN) * 2 + MARGIN, start.shape[-2] * ZOOM + TITLE + MARGIN
    rows = -(-(len(cells) + 1) // COLUMNS)
    sheet = Image.new("RGB", (width * COLUMNS, height * rows), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TITLE - 6)
    for number, (title, view) in enumerate([("clean", clean), *cells]):
        left, top = number % COLUMNS * width + MARGIN, number // COLUMNS * height
        change = view.canvases[0] - start
        largest = float(change.abs().max())
        sheet.paste(image(view.canvases[0]), (left, top + TITLE))
        if largest:
            title += f", {round(largest * 255)} levels"
            beside = left + start.shape[-1] * ZOOM + MARGIN
            sheet.paste(image(change / largest / 2 + 0.5), (beside, top + TITLE))
        pen.text((left, top + 2), title, fill="black", font=font)
    # Noise hardly compresses: of few colours it does.
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, default=Path("attacks.png"))
    parser.add_argument("--task", default="shapes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = RunConfig(task=arguments.task)
    strategies = build_strategies(config)
    policy = load_policy(config, strategies.template)
    views = [policy.view(strategies.task.example(number), index=number) for number in range(2)]
    step = StepContext(policy, progress=0.0, sources=GroupSources(0, "pictures"))
    responses: list[list[Response]] = step.sample(views, [4, 4])
    cells = []
    for title, settings in slots():
        step = StepContext(policy, progress=0.0, sources=GroupSources(0, title))
        intervention = Intervention(InterventionConfig.model_validate(settings))
        outcome, _ = intervention.apply(views, responses, step, None)
        if outcome.untouched:
            title += f" ({outcome.untouched})"
        cells.append((title, outcome.view))
        print(title, {name: round(value, 4) for name, value in outcome.metrics.items()})
    draw_sheet(views[0], cells, arguments.png)


if __name__ == "__main__":
    main()
