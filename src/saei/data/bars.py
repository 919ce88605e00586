"""Questions about small bar charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from saei.data.arithmetic import Problem, draw_problem
from saei.data.base import Split, Task
from saei.data.images import COLOURS, SIDE, blank, to_image
from saei.data.phrases import STRATEGIES, strategy_of
from saei.data.questions import BAR_WORDS, answer_about_numbers, number_wordings
from saei.data.shifts import NOISY, Colour, colours_of, noise
from saei.types import Example

MAX_HEIGHT = 5
UNIT = 11  # pixels a unit of height: five units and a margin fill the image
NOISE = 6.0  # grey levels, before the contrast is reduced
KINDS = {
    1: ("read", "compare"),
    2: ("read", "compare", "add", "subtract"),
    3: ("highest", "add-add", "add-subtract"),
}
Shift: TypeAlias = Literal["none", "colours", "more-bars", "rotated", "noisy"]
MORE: Mapping[str, Colour] = {"purple": (130, 40, 170), "orange": (245, 120, 20)}
"""The bars of ``more-bars``; they are never asked about and never the highest."""
_SPLITS = {"train": 0, "eval": 1}


class Bars(Task):
    """Bar charts of four colours with heights from 1 to 5: read, compare, add, subtract."""

    strategies = STRATEGIES
    oracle = True

    class Config(Task.Config):
        """Fields of ``bars``.

        Attributes:
            level: 1 reads and compares, 2 also adds and subtracts two bars, 3 takes three or all.
            shift: The same questions about other pictures. ``colours``: other shades. ``more-bars``: six bars, of which
                a purple and an orange one are never asked about. ``rotated``: by a quarter turn, bars grow to the
                right. ``noisy``: noise of 40 grey levels instead of 6.
        """

        type: Literal["bars"] = "bars"
        level: Literal[1, 2, 3] = 2
        shift: Shift = "none"

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return chart ``index`` with its question."""
        level, shift = self.config.level, self.config.shift
        rng = np.random.default_rng([self.config.seed, _SPLITS[split], level, index])
        name = f"bars-{level}-{split}-{index}" if shift == "none" else f"bars-{level}-{shift}-{split}-{index}"
        return draw_chart(rng, level, name, shift)

    def strategy(self, example: Example, text: str) -> str | None:
        """Return ``steps`` or ``glance`` by what the response says it does, None for neither."""
        return strategy_of(text)

    def answer(self, example: Example, question: str) -> str | None:
        """Return the answer to any question about the four bars, by the grammar of ``saei.data.questions``.

        The two bars of ``more-bars`` are never asked about: questions that name one are unanswerable, and so is the
        one for the lowest of all.
        """
        more = self.config.shift == "more-bars"
        return answer_about_numbers(question, example.meta["quantities"], BAR_WORDS, more_in_picture=more)

    def wordings(self, example: Example) -> tuple[str, ...]:
        """Return the question in other words."""
        return number_wordings(Problem.of(example.meta), BAR_WORDS)


def draw_chart(rng: np.random.Generator, level: int, name: str, shift: Shift = "none") -> Example:
    """Draw a chart and a question about it; shifts differ in nothing but the picture."""
    order = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    heights = {colour: int(rng.integers(1, MAX_HEIGHT + 1)) for colour in order}
    problem = draw_problem(rng, KINDS[level], heights)
    grain = noise(rng, NOISY if shift == "noisy" else NOISE)
    canvas = paint(_among_more(rng, heights) if shift == "more-bars" else heights, colours_of(shift))
    if shift == "rotated":
        canvas = np.rot90(canvas, -1)
    meta = problem.meta() | {"quantities": heights}
    return Example(name, ask(problem), problem.answer(problem.values), (to_image(canvas + grain),), meta)


def _among_more(rng: np.random.Generator, heights: Mapping[str, int]) -> dict[str, int]:
    """Return the bars among two more that are lower than the highest, in a new order."""
    below = max(2, max(heights.values()))
    every = {**heights, **{colour: int(rng.integers(1, below)) for colour in MORE}}
    return {list(every)[i]: list(every.values())[i] for i in rng.permutation(len(every))}


def paint(heights: Mapping[str, int], colours: Mapping[str, Colour] = COLOURS) -> NDArray[np.float64]:
    """Return the noiseless chart at full contrast, ``[64, 64, 3]`` in grey levels, bars from left to right."""
    canvas = blank()
    width = SIDE // len(heights)
    for place, (colour, height) in enumerate(heights.items()):
        left = place * width
        canvas[SIDE - 2 - UNIT * height : SIDE - 2, left + 2 : left + width - 2] = {**MORE, **colours}[colour]
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
