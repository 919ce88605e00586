"""Questions about how two coloured shapes lie to each other: spatial relations, no arithmetic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from saei.data.bars import NOISE
from saei.data.base import Split, Task
from saei.data.images import COLOURS, SIDE, blank, to_image
from saei.data.phrases import STRATEGIES, strategy_of
from saei.data.questions import IS, THE, any_of, without_place, words_of
from saei.data.shifts import NOISY, Colour, colours_of, noise, uniform_of_either_sign
from saei.types import Example

FORMS = ("circle", "square", "triangle")
RADIUS = 7  # pixels
CELL = 16  # pixels: shapes sit in the cells of a 4 x 4 grid
JITTER = 1  # pixels off the cell's centre
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
Shift: TypeAlias = Literal["none", "colours", "rotated", "noisy"]
TURN = (20.0, 70.0)
"""Of ``rotated``, in degrees to either side."""
TURNED_RADIUS = 5.5  # pixels: corners that are turned reach beyond the radius
_SPLITS = {"train": 0, "eval": 1}


class Shapes(Task):
    """Two coloured shapes: how the first lies to the second, or whether it lies so. Source: original."""

    strategies = STRATEGIES
    oracle = True

    class Config(Task.Config):
        """Fields of ``shapes``.

        Attributes:
            shift: The same questions about other pictures. ``colours``: other shades. ``rotated``: each shape by 20 to
                70 degrees about its centre, and smaller. ``noisy``: noise of 40 grey levels instead of 6.
        """

        type: Literal["shapes"] = "shapes"
        shift: Shift = "none"

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return picture ``index`` with its question."""
        shift = self.config.shift
        rng = np.random.default_rng([self.config.seed, _SPLITS[split], index])
        return draw_shapes(
            rng, f"shapes-{split}-{index}" if shift == "none" else f"shapes-{shift}-{split}-{index}", shift
        )

    def strategy(self, example: Example, text: str) -> str | None:
        """Return ``steps`` or ``glance`` by what the response says it does, None for neither."""
        return strategy_of(text)

    def answer(self, example: Example, question: str) -> str | None:
        """Return the answer to any question about the two shapes, by the grammar of ``saei.data.questions``."""
        return answer_about_places(question, {name: tuple(cell) for name, cell in example.meta["cells"].items()})

    def wordings(self, example: Example) -> tuple[str, ...]:
        """Return the question in other words."""
        first, second = example.meta["names"]
        return place_wordings(example.meta["kind"], first, second, example.meta["asked"])


def draw_shapes(rng: np.random.Generator, name: str, shift: Shift = "none") -> Example:
    """Draw two shapes and ask how the first lies to the second, or whether it lies so; shifts differ in the picture.

    The example's meta has the ``kind`` (``check`` or ``choose``), the ``names`` of both shapes, the relation
    asked about, the ``truth``, and the ``cells`` by name: column and row, from the left and from above.
    """
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:2]]
    names = tuple(f"{colour} {FORMS[rng.integers(len(FORMS))]}" for colour in colours)
    axis = int(rng.integers(2))  # 0 asks about left and right, 1 about above and below
    cells = rng.integers(SIDE // CELL, size=(2, 2))
    cells[:, axis] = rng.permutation(SIDE // CELL)[:2]
    first_is_less = bool(cells[0, axis] < cells[1, axis])
    truth = (("right", "left"), ("below", "above"))[axis][first_is_less]
    relation = truth if rng.random() < 0.5 else OPPOSITE[truth]
    if rng.random() < 0.5:
        kind, question = "check", f"Is the {names[0]} {RELATIONS[relation]} the {names[1]}?"
        answer = "yes" if relation == truth else "no"
    else:
        kind, answer = "choose", truth
        question = f"Is the {names[0]} {relation} or {OPPOSITE[relation]} the {names[1]}?"
        if axis == 0:
            question = f"Is the {names[0]} {relation} or {OPPOSITE[relation]} of the {names[1]}?"
    centres = [cell * CELL + CELL // 2 + rng.integers(-JITTER, JITTER + 1, size=2) for cell in cells]
    grain = noise(rng, NOISY if shift == "noisy" else NOISE)
    picture = Image.fromarray(blank().astype(np.uint8))
    for (x, y), shape in zip(centres, names, strict=True):
        colour, form = shape.split()
        angle = uniform_of_either_sign(rng, *TURN) if shift == "rotated" else 0.0
        _paint(ImageDraw.Draw(picture), form, (int(x), int(y)), colours_of(shift)[colour], angle)
    canvas = np.asarray(picture, dtype=np.float64) + grain
    places = {name: (int(column), int(row)) for name, (column, row) in zip(names, cells, strict=True)}
    meta = {"kind": kind, "names": names, "asked": relation, "truth": truth, "cells": places}
    return Example(name, question, answer, (to_image(canvas),), meta)


def _paint(draw: ImageDraw.ImageDraw, form: str, centre: tuple[int, int], colour: Colour, angle: float) -> None:
    """Paint a shape, turned by an angle in degrees."""
    x, y = centre
    box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
    if form != "circle" and angle:
        draw.regular_polygon((x, y, TURNED_RADIUS * 2**0.5), 4 if form == "square" else 3, angle, fill=colour)
    elif form == "circle":
        draw.ellipse(box, fill=colour)
    elif form == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=colour)


def answer_about_places(question: str, cells: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the answer to a question about how two shapes lie, None where it has no one clear answer.

    Shapes in one column lie at most two pixels to the left or right of each other, and likewise those in one row above
    or below: such questions are unanswerable. So are those about a shape that is not there, such as a red square where
    the red shape is a circle. ``of`` only holds the sentence together: ``above of`` is ``above``.

    Args:
        question: Any text.
        cells: Column and row of each shape by its name, from the left and from above.
    """
    text = without_place(words_of(question), ("image", "picture"))
    shape = rf"(?:{THE} )?({any_of(tuple(cells))})"
    relation = rf"(?:(?:at|on|to) {THE} )?({any_of(tuple(OPPOSITE))})(?: of)?"
    check = rf"{IS} {shape} {relation} {shape}", rf"{shape} {IS} {relation} {shape}(?: yes or no)?"
    for pattern in check:
        if match := re.fullmatch(pattern, text):
            truth = _truth(cells[match[1]], cells[match[3]], match[2])
            return None if truth is None else "yes" if truth == match[2] else "no"
    choose = re.fullmatch(rf"(?:where )?{IS} {shape} {relation} or {relation} {shape}", text)
    if choose is None or OPPOSITE[choose[2]] != choose[3]:
        return None
    return _truth(cells[choose[1]], cells[choose[4]], choose[2])


def _truth(first: tuple[int, ...], second: tuple[int, ...], relation: str) -> str | None:
    """Return the relation of two cells along the axis of a relation, None if they share the column or row."""
    axis, less, more = (0, "left", "right") if relation in ("left", "right") else (1, "above", "below")
    return None if first[axis] == second[axis] else less if first[axis] < second[axis] else more


def place_wordings(kind: str, first: str, second: str, relation: str) -> tuple[str, ...]:
    """Return other questions with the same meaning, in words that the built-in model knows."""
    there, opposite = RELATIONS[relation], OPPOSITE[relation]
    if kind == "check":
        return (
            f"Is the {second} {RELATIONS[opposite]} the {first}?",
            f"The {first} is {there} the {second}, yes or no?",
            f"Is the {first} {there} the {second} in the image?",
        )
    return (
        f"Is the {first} {opposite} or {there} the {second}?",
        f"Where is the {first}, {relation} or {RELATIONS[opposite]} the {second}?",
        f"Is the {first} {there} or {RELATIONS[opposite]} the {second} in the image?",
    )
