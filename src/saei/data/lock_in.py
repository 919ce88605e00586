"""Sums over bar charts whose look can be changed: the setting in which a policy is locked into a poor strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from saei.data.arithmetic import Problem, draw_problem
from saei.data.bars import NOISE, ask, paint
from saei.data.base import Split, Task
from saei.data.images import COLOURS, CONTRAST, SIDE, blank, to_image
from saei.data.phrases import STRATEGIES, strategy_of
from saei.data.questions import BAR_WORDS, answer_about_numbers, number_wordings
from saei.types import Example

Look: TypeAlias = Literal["clear", "faded", "crisp", "tinted"]
LOOKS: tuple[Look, ...] = get_args(Look)

MAX_HEIGHT = 5
KINDS = ("add", "subtract", "add-add", "add-subtract")
FADED = (0.15, 0.35)
"""Contrast of faded bars against the paper, as a share of that of clear ones."""
CRISP = (1.3, 1.6)
"""Contrast of a crisp picture, as a multiple of that of a clear one."""
TINT = np.array([-60.0, -25.0, 0.0])
"""What a tint adds to red, green and blue, in grey levels at full contrast."""

_SPLITS = {"train": 0, "eval": 1}


class LockIn(Task):
    """Charts like those of ``bars`` with sums of two or three of them.

    The base that ``saei build-tiny --recipe lock-in`` makes knows two ways to answer: at a glance, which is mostly
    wrong, and step by step, which is mostly right. Which look of a chart makes it go step by step is the base's
    coupling; on clear charts, the ones that are trained and evaluated on, it never or hardly ever does.
    Source: original.
    """

    strategies = STRATEGIES
    oracle = True

    class Config(Task.Config):
        """Fields of ``lock-in``.

        Attributes:
            look: ``clear``, ``faded`` (bars nearly as pale as the paper), ``crisp`` (more contrast than clear) or
                ``tinted`` (bluish paper).
        """

        type: Literal["lock-in"] = "lock-in"
        look: Look = "clear"

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return chart ``index`` with its question."""
        rng = np.random.default_rng([self.config.seed, _SPLITS[split], index])
        look = self.config.look
        return draw_question(rng, look, f"lock-in-{look}-{split}-{index}")

    def strategy(self, example: Example, text: str) -> str | None:
        """Return ``steps`` or ``glance`` by what the response says it does, None for neither."""
        return strategy_of(text)

    def answer(self, example: Example, question: str) -> str | None:
        """Return the answer to any question about the four bars, by the grammar of ``saei.data.questions``."""
        return answer_about_numbers(question, example.meta["quantities"], BAR_WORDS)

    def wordings(self, example: Example) -> tuple[str, ...]:
        """Return the question in other words."""
        return number_wordings(Problem.of(example.meta), BAR_WORDS)


def draw_question(rng: np.random.Generator, look: Look, name: str, kinds: Sequence[str] = KINDS) -> Example:
    """Draw a chart of a look and a question about it, by default a sum; looks differ in nothing but the picture."""
    order = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    heights = {colour: int(rng.integers(1, MAX_HEIGHT + 1)) for colour in order}
    problem = draw_problem(rng, kinds, heights)
    noise = rng.normal(0, NOISE, (SIDE, SIDE, 3))
    canvas, contrast, degree = paint(heights), CONTRAST, rng.random()
    if look == "faded":
        canvas = blank() + _between(FADED, degree) * (canvas - blank())
    elif look == "crisp":
        contrast *= _between(CRISP, degree)
    elif look == "tinted":
        canvas = canvas + TINT
    image = to_image(canvas + noise, contrast)
    meta = problem.meta() | {"quantities": heights, "look": look}
    return Example(name, ask(problem), problem.answer(problem.values), (image,), meta)


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])
