"""Spatial relations between two coloured shapes, for the warm start of the built-in model."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from saei.data.bars import NOISE
from saei.data.images import COLOURS, SIDE, blank, to_image
from saei.types import Example

FORMS = ("circle", "square", "triangle")
RADIUS = 7  # pixels
CELL = 16  # pixels: shapes sit in the cells of a 4 x 4 grid
JITTER = 1  # pixels off the cell's centre
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def draw_shapes(rng: np.random.Generator, name: str) -> Example:
    """Draw two shapes and ask how the first lies to the second, or whether it lies so.

    The example's meta has the ``kind`` (``check`` or ``choose``), the ``names`` of both shapes, the relation
    asked about and the ``truth``.
    """
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:2]]
    names = tuple(f"{colour} {FORMS[rng.integers(len(FORMS))]}" for colour in colours)
    axis = int(rng.integers(2))  # 0 asks about left and right, 1 about above and below
    cells = rng.integers(SIDE // CELL, size=(2, 2))
    cells[:, axis] = rng.permutation(SIDE // CELL)[:2]
    first_is_less = bool(cells[0, axis] < cells[1, axis])
    truth = (("right", "left"), ("below", "above"))[axis][first_is_less]
    asked = truth if rng.random() < 0.5 else OPPOSITE[truth]
    if rng.random() < 0.5:
        kind, question = "check", f"Is the {names[0]} {RELATIONS[asked]} the {names[1]}?"
        answer = "yes" if asked == truth else "no"
    else:
        kind, answer = "choose", truth
        question = f"Is the {names[0]} {asked} or {OPPOSITE[asked]} the {names[1]}?"
        if axis == 0:
            question = f"Is the {names[0]} {asked} or {OPPOSITE[asked]} of the {names[1]}?"
    picture = Image.fromarray(blank().astype(np.uint8))
    for cell, shape in zip(cells, names, strict=True):
        x, y = (int(value) for value in cell * CELL + CELL // 2 + rng.integers(-JITTER, JITTER + 1, size=2))
        _paint(ImageDraw.Draw(picture), shape, x, y)
    canvas = np.asarray(picture, dtype=np.float64) + rng.normal(0, NOISE, (SIDE, SIDE, 3))
    meta = {"kind": kind, "names": names, "asked": asked, "truth": truth}
    return Example(name, question, answer, (to_image(canvas),), meta)


def _paint(draw: ImageDraw.ImageDraw, shape: str, x: int, y: int) -> None:
    colour, form = shape.split()
    box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
    if form == "circle":
        draw.ellipse(box, fill=COLOURS[colour])
    elif form == "square":
        draw.rectangle(box, fill=COLOURS[colour])
    else:
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=COLOURS[colour])
