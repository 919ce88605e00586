"""Arithmetic on real handwriting: the UCI optical digits that scikit-learn ships."""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from saei.data.arithmetic import Problem, draw_problem
from saei.data.base import Split, Task
from saei.data.images import COLOURS, PAPER, SIDE, blank, to_image
from saei.data.phrases import STRATEGIES, strategy_of
from saei.data.questions import DIGIT_WORDS, answer_about_numbers, number_wordings
from saei.data.shifts import NOISY, colours_of, noise, uniform_of_either_sign
from saei.types import Example

EVAL_EVERY = 4  # every fourth image of the collection is kept for evaluation
CELL = 16  # pixels of a card's side
GRID = SIDE // CELL  # cards lie in the cells of a square grid
FULL_INK = 16.0  # the collection's darkest value
KINDS = {
    1: ("read", "compare"),
    2: ("read", "compare", "add", "subtract"),
    3: ("multiply",),
}
Shift: TypeAlias = Literal["none", "colours", "handwriting", "rotated", "noisy"]
SLANT = (0.3, 0.5)
"""Of ``handwriting``: pixels to the side per pixel upwards."""
THICKER = 0.3
"""Of ``handwriting``: ink on the pixels around the strokes, as a share of theirs."""
TURN = (15.0, 30.0)
"""Of ``rotated``, in degrees to either side."""
_SPLITS = {"train": 0, "eval": 1}


class Digits(Task):
    """Two handwritten digits on coloured cards: read, compare, add, subtract, multiply.

    No image of the ``eval`` split appears in ``train``. Source of the images: Alpaydin and Kaynak (1998),
    Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """

    strategies = STRATEGIES
    oracle = True

    class Config(Task.Config):
        """Fields of ``digits``.

        Attributes:
            level: 1 reads and compares, 2 also adds and subtracts, 3 multiplies.
            shift: The same questions about other pictures, of the same split's digits. ``colours``: other shades.
                ``handwriting``: slanted and thicker. ``rotated``: each digit by 15 to 30 degrees. ``noisy``: noise of
                40 grey levels.
        """

        type: Literal["digits"] = "digits"
        level: Literal[1, 2, 3] = 2
        shift: Shift = "none"

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return pair ``index`` with its question."""
        level, shift = self.config.level, self.config.shift
        rng = np.random.default_rng([self.config.seed, _SPLITS[split], level, index])
        name = f"digits-{level}-{split}-{index}" if shift == "none" else f"digits-{level}-{shift}-{split}-{index}"
        return draw_pair(rng, level, split, name, shift)

    def strategy(self, example: Example, text: str) -> str | None:
        """Return ``steps`` or ``glance`` by what the response says it does, None for neither."""
        return strategy_of(text)

    def answer(self, example: Example, question: str) -> str | None:
        """Return the answer to any question about the two digits, by the grammar of ``saei.data.questions``."""
        return answer_about_numbers(question, example.meta["quantities"], DIGIT_WORDS)

    def wordings(self, example: Example) -> tuple[str, ...]:
        """Return the question in other words."""
        return number_wordings(Problem.of(example.meta), DIGIT_WORDS)


def draw_pair(rng: np.random.Generator, level: int, split: Split, name: str, shift: Shift = "none") -> Example:
    """Draw two digits of a split, on cards of two colours in two places, and a question; shifts change the picture."""
    images, labels = handwriting(split)
    chosen = rng.integers(len(labels), size=2)
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:2]]
    places = rng.permutation(GRID * GRID)[:2]
    values = {colour: int(labels[index]) for colour, index in zip(colours, chosen, strict=True)}
    problem = draw_problem(rng, KINDS[level], values)
    canvas = blank()
    for colour, index, place in zip(colours, chosen, places, strict=True):
        top, left = CELL * (int(place) // GRID), CELL * (int(place) % GRID)
        share = _written(images[index], shift, rng)[:, :, None] / FULL_INK
        canvas[top : top + CELL, left : left + CELL] = (1 - share) * (PAPER + np.array(colours_of(shift)[colour])) / 2
    if shift == "noisy":
        canvas += noise(rng, NOISY)
    meta = problem.meta() | {"quantities": values}
    return Example(name, ask(problem), problem.answer(problem.values), (to_image(canvas),), meta)


def _written(digit: NDArray[np.float64], shift: Shift, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the ink of a digit on its card, ``[16, 16]`` in 0 to 16."""
    ink = np.kron(digit, np.ones((CELL // 8, CELL // 8)))
    if shift == "handwriting":
        around = np.asarray(Image.fromarray(ink.astype(np.uint8)).filter(ImageFilter.MaxFilter(3)))
        ink = (1 - THICKER) * ink + THICKER * around
    picture = Image.fromarray(ink.astype(np.float32))
    if shift == "handwriting":
        slant = uniform_of_either_sign(rng, *SLANT)
        shear = (1, slant, -slant * CELL / 2, 0, 1, 0)
        picture = picture.transform(picture.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    elif shift == "rotated":
        picture = picture.rotate(uniform_of_either_sign(rng, *TURN), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float64)


@cache
def handwriting(split: Split) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the ``[n, 8, 8]`` images in 0 to 16 and the labels of a split; the splits share none."""
    from sklearn.datasets import load_digits

    data = load_digits()
    held_out = np.arange(len(data.target)) % EVAL_EVERY == 0
    keep = held_out if split == "eval" else ~held_out
    return data.images[keep], data.target[keep]


def ask(problem: Problem) -> str:
    """Return the question of a problem in words."""
    if problem.kind == "read":
        return f"What is the {problem.names[0]} digit?"
    if problem.kind == "compare":
        return f"Which digit is larger, {problem.names[0]} or {problem.names[1]}?"
    return f"What is {problem.expression}?"
