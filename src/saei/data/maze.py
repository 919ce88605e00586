"""Grid worlds as pictures: the answer is a plan, graded by executing it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from saei.data.bars import NOISE
from saei.data.base import Reporting, Split, Task
from saei.data.images import PAPER, to_image
from saei.data.shifts import NOISY, Colour, colours_of, noise
from saei.errors import DataError
from saei.grids import GOAL, GROUND, HOLE, START, Grid, distances, parse_plan, shortest_plans
from saei.types import Example

CELL = 16  # pixels of a cell's side: one patch of the built-in model
QUESTION = "How do you get to the goal?"
WORDINGS = ("How do I get to the goal?", "How do you go to the goal?", "How do you get to the goal in the maze?")
"""The built-in base of mazes knows their words."""
_ASKED = re.compile(
    r"how (?:do|can|should) (?:you|i|we) (?:get|go|come|walk|move) to (?:the|a|an) goal(?: in (?:the|a|an) maze)?"
)
COLOUR_NAMES = {HOLE: "blue", START: "red", GOAL: "green"}
MOST_DRAWS = 20_000
"""Grids that are drawn for one example, of which one has to be as the config asks."""

LENGTHS_OF = 64
"""Training mazes whose distances are the lengths of legal walks."""

Shift: TypeAlias = Literal["none", "colours", "noisy"]
Part: TypeAlias = Literal["train", "eval", "gate"]
_PARTS: Mapping[Part, int] = {"train": 0, "eval": 1, "gate": 2}
_SHARES = 8  # of all layouts one part in eight is `eval`, one `gate`, the rest `train`


class Maze(Task):
    """Grids with a start, a goal and holes: a plan of moves has to end at the goal and to avoid the holes.

    The border blocks. Any plan that ends at the goal is right. A layout belongs to one split alone, whatever the seed:
    ``eval`` shows none that ``train`` may show, and the gate of the recipe ``maze`` has layouts of its own.
    Source: original; the grid worlds are those of Gymnasium's FrozenLake, without slipping.
    """

    oracle = True
    reporting = Reporting(by=("way", "distance"))

    class Config(Task.Config):
        """Fields of ``maze``.

        Attributes:
            size: Cells of a side, each 16 pixels wide. The built-in base is made for 4.
            holes: Probability of a hole, for each cell on its own.
            detours: Share of mazes that have to be detours, whose shortest way is longer than without holes.
                Others are detours by chance.
            min_distance: Moves of the shortest way, at least.
            max_distance: The same, at most.
            examples: Mazes to train on, None for ever new ones. Evaluation has ever new ones.
            shift: The same mazes in other pictures. ``colours``: other shades. ``noisy``: noise of 40 grey levels
                instead of 6.
        """

        type: Literal["maze"] = "maze"
        size: Annotated[int, Field(ge=2, le=9)] = 4
        holes: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
        detours: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
        min_distance: Annotated[int, Field(ge=1, le=80)] = 2
        max_distance: Annotated[int, Field(ge=1, le=80)] = 9
        examples: Annotated[int, Field(ge=1)] | None = None
        shift: Shift = "none"

        @model_validator(mode="after")
        def _reachable(self) -> Self:
            if self.min_distance > self.max_distance:
                raise ValueError(
                    f"No distance is at least {self.min_distance} and at most {self.max_distance}. "
                    "Give min_distance a smaller value, or max_distance a larger one"
                )
            if self.detours and (self.size < 3 or self.max_distance < 4 or not self.holes):
                raise ValueError(
                    "A detour is around a hole and has four moves at least, in a grid of at least 3 x 3. "
                    "Set detours to 0, or give room for them by size, holes and max_distance"
                )
            return self

    config: Config

    def example(self, index: int, split: Split = "train") -> Example:
        """Return maze ``index``.

        Raises:
            DataError: If hardly any grid is as the config asks.
        """
        name = f"maze-{self.config.size}-{split}-{index}"
        return draw_maze(self._rng(split, index), self.config, split, name)

    def gate_example(self, index: int) -> Example:
        """Return maze ``index`` of those that a base is accepted by; they are in no split."""
        return draw_maze(self._rng("gate", index), self.config, "gate", f"maze-{self.config.size}-gate-{index}")

    def _rng(self, part: Part, index: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, _PARTS[part], self.config.size, index])

    def size(self, split: Split = "train") -> int | None:
        """Return the number of training mazes, None if they have no end."""
        return self.config.examples if split == "train" else None

    def answer(self, example: Example, question: str) -> str | None:
        """Return the example's plan if the question asks for the way to the goal in other words, else None."""
        words = " ".join(question.casefold().replace(",", " ").split()).rstrip(" ?.!")
        return example.answer if _ASKED.fullmatch(words) else None

    def wordings(self, example: Example) -> tuple[str, ...]:
        """Return the question in other words."""
        return WORDINGS

    def solution(self, example: Example, answer: str) -> str | None:
        """Return the cells of a right plan's path, such as ``6 7 8 12``; see ``saei.grids.Grid.path``."""
        plan = parse_plan(answer)
        path = None if plan is None else grid_of(example).path(plan)
        return None if path is None else " ".join(map(str, path))

    def best_solutions(self, example: Example) -> tuple[str, ...]:
        """Return the paths of all shortest ways."""
        grid = grid_of(example)
        return tuple(" ".join(map(str, grid.walk(plan))) for plan in shortest_plans(grid))

    def guesses(self, example: Example, rng: np.random.Generator) -> dict[str, str]:
        """Draw two walks of moves into neither border nor hole.

        The ``legal walk`` is as long as the shortest way of some training maze. The ``legal walk to the goal`` sees the
        goal when it is there: it ends at it, or after ``max_distance`` moves.
        """
        grid = grid_of(example)
        length = self._lengths[rng.integers(len(self._lengths))]
        return {
            "legal walk": _wander(grid, length, rng, to_goal=False),
            "legal walk to the goal": _wander(grid, self.config.max_distance, rng, to_goal=True),
        }

    @cached_property
    def _lengths(self) -> list[int]:
        count = min(LENGTHS_OF, self.config.examples or LENGTHS_OF)
        return [self.example(index).meta["distance"] for index in range(count)]


def _wander(grid: Grid, length: int, rng: np.random.Generator, *, to_goal: bool) -> str:
    """Draw a walk of legal moves. There always is one: the start has a way to the goal."""
    plan: list[str] = []
    cell = grid.start
    while len(plan) < length and not (to_goal and cell == grid.goal):
        moves = grid.legal(cell)
        plan.append(moves[rng.integers(len(moves))])
        cell = grid.after(cell, plan[-1])
    return " ".join(plan)


def grid_of(example: Example) -> Grid:
    """Return the grid of an example of this task."""
    return Grid(tuple(example.meta["map"]))


def draw_maze(rng: np.random.Generator, config: Maze.Config, part: Part, name: str) -> Example:
    """Draw a maze of a part; shifts differ in nothing but the picture.

    Raises:
        DataError: If hardly any grid is as the config asks.
    """
    grid, is_detour = _draw_grid(rng, config, part)
    plans = shortest_plans(grid)
    answer = " ".join(plans[rng.integers(len(plans))])
    side = CELL * config.size
    grain = noise(rng, NOISY if config.shift == "noisy" else NOISE, side)
    meta = {
        "kind": "plan",
        "answer_type": "plan",
        "map": grid.rows,
        "distance": len(plans[0]),
        "way": "detour" if is_detour else "direct",
    }
    return Example(name, QUESTION, answer, (to_image(paint(grid, colours_of(config.shift)) + grain),), meta)


def _draw_grid(rng: np.random.Generator, config: Maze.Config, part: Part) -> tuple[Grid, bool]:
    has_to_be_detour = rng.random() < config.detours
    size = config.size
    for _ in range(MOST_DRAWS):
        letters = np.where(rng.random(size * size) < config.holes, HOLE, GROUND)
        start, goal = (int(cell) for cell in rng.choice(size * size, 2, replace=False))
        letters[start], letters[goal] = START, GOAL
        grid = Grid(tuple("".join(row) for row in letters.reshape(size, size)))
        if part_of(grid) != part:
            continue
        distance = distances(grid).get(grid.start)
        if distance is None or not config.min_distance <= distance <= config.max_distance:
            continue
        straight = abs(start // size - goal // size) + abs(start % size - goal % size)
        if distance > straight or not has_to_be_detour:
            return grid, distance > straight
    raise DataError(
        "The task maze draws grids until one is as its fields ask.",
        reason=f"None of {MOST_DRAWS} was: size {size}, holes {config.holes}, distance {config.min_distance} to "
        f"{config.max_distance}{', a detour' if has_to_be_detour else ''}.",
        remedy="Give task.min_distance a smaller value, task.size a larger one, or change task.holes.",
    )


def part_of(grid: Grid) -> Part:
    """Return the part that a layout belongs to, by its hash and nothing else."""
    share = hashlib.sha256("/".join(grid.rows).encode()).digest()[0] % _SHARES
    return "eval" if share == 0 else "gate" if share == 1 else "train"


def paint(grid: Grid, colours: Mapping[str, Colour]) -> NDArray[np.float64]:
    """Return the noiseless picture at full contrast, ``[side, side, 3]`` in grey levels."""
    ground = (PAPER,) * 3
    paints = {letter: colours[colour] for letter, colour in COLOUR_NAMES.items()} | {GROUND: ground}
    cells = np.array([[paints[letter] for letter in row] for row in grid.rows], dtype=np.float64)
    return cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
