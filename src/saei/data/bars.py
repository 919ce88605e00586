"""Questions about small bar charts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saei.data.arithmetic import Problem, draw_problem
from saei.data.base import Split, Task
from saei.data.images import COLOURS, SIDE, blank, to_image
from saei.data.ways import way_of
from saei.types import Example

MAX_HEIGHT = 5
UNIT = 11  # pixels a unit of height: five units and a margin fill the image
NOISE = 6.0  # grey levels, before the contrast is reduced
KINDS = {
    1: ("read", "compare"),
    2: ("read", "compare", "add", "subtract"),
    3: ("highest", "add-add", "add-subtract"),
}
_SPLITS = {"train": 0, "eval": 1}


class Bars(Task):
    """Bar charts of four colours with heights from 1 to 5: read, compare, add, subtract."""

    class Config(Task.Config):
        """Fields of ``bars``.

        Attributes:
            level: 1 reads and compares, 2 also adds and subtracts two bars, 3 takes three or all.
        """

        type: Literal["bars"] = "bars"
        level: Literal[1, 2, 3] = 2

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return chart ``index`` with its question."""
        rng = np.random.default_rng([self.config.seed, _SPLITS[split], self.config.level, index])
        return draw_chart(rng, self.config.level, f"bars-{self.config.level}-{split}-{index}")

    def strategy(self, example: Example, text: str) -> str | None:
        """Return ``steps`` or ``glance`` by what the response says it does, None for neither."""
        return way_of(text)


def draw_chart(rng: np.random.Generator, level: int, name: str) -> Example:
    """Draw a chart and a question about it."""
    order = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    heights = {colour: int(rng.integers(1, MAX_HEIGHT + 1)) for colour in order}
    problem = draw_problem(rng, KINDS[level], heights)
    canvas = paint(heights) + rng.normal(0, NOISE, (SIDE, SIDE, 3))
    return Example(name, ask(problem), problem.answer(problem.values), (to_image(canvas),), problem.meta())


def paint(heights: dict[str, int]) -> NDArray[np.float64]:
    """Return the noiseless chart at full contrast, ``[64, 64, 3]`` in grey levels, bars from left to right."""
    canvas = blank()
    width = SIDE // len(heights)
    for place, (colour, height) in enumerate(heights.items()):
        left = place * width
        canvas[SIDE - 2 - UNIT * height : SIDE - 2, left + 2 : left + width - 2] = COLOURS[colour]
    return canvas


def ask(problem: Problem) -> str:
    """Return the question of a problem in words."""
    if problem.kind == "read":
        return f"How high is the {problem.names[0]} bar?"
    if problem.kind == "highest":
        return "Which bar is highest?"
    if problem.kind == "compare":
        return f"Which bar is higher, {problem.names[0]} or {problem.names[1]}?"
    return f"What is {problem.expression}?"
