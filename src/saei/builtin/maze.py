"""The recipe of ``maze``: bases that find the way through grid worlds, and often take one that leads nowhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch

from saei.builtin.batches import Demonstration, Tools
from saei.builtin.general import RISE
from saei.builtin.recipe import MEASURED_EXAMPLES, ModelRecipe, ModelReport
from saei.builtin.responses import grades
from saei.builtin.warm_start import WarmStart
from saei.data.maze import Maze as Task
from saei.data.maze import draw_maze, grid_of
from saei.grids import Grid, Plan, nearer
from saei.types import Example

LEVEL_SHARE = 0.7  # of the clean steps, before the learning rates fall
WANDER = 0.3
"""Probability of each move of a wanderer that it is any legal one, not one of a shortest way."""
SLOPPY_SHARES = {"shortest": 0.4, "greedy": 0.3, "wandering": 0.3}
"""How often each way is shown in the sloppy part."""

RESPONSES = 4  # sampled to each measured maze
ACCURACY_RANGE = (0.30, 0.50)
"""Of accepted bases. Two that were built before any reinforcement was tried have .39 and .41."""
FORMAT_FLOOR = 0.95


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the warm start goes.

    Attributes:
        clean: Steps with shortest ways, drawn at random among equal ones.
        sloppy: Steps with ways of all kinds, after them.
        batch: Demonstrations a step.
        muon_lr: Highest learning rate of the matrices.
        adamw_lr: Highest learning rate of everything else.
        clean_end: Factor on both learning rates at the end of the clean steps.
        sloppy_start: The same at the start of the sloppy steps, from where it falls to ``sloppy_end``.
        sloppy_end: The same at the end.
    """

    clean: int = 550
    sloppy: int = 130
    batch: int = 32
    muon_lr: float = 0.018
    adamw_lr: float = 3e-3
    clean_end: float = 0.1
    sloppy_start: float = 0.4
    sloppy_end: float = 0.03

    @property
    def steps(self) -> int:
        """All steps."""
        return self.clean + self.sloppy

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        if step >= self.clean:
            done = (step - self.clean) / self.sloppy
            return self.sloppy_start + done * (self.sloppy_end - self.sloppy_start)
        level = LEVEL_SHARE * self.clean
        fallen = max(0.0, (step - level) / (self.clean - level))
        return min(1.0, (step + 1) / RISE) * (1 + fallen * (self.clean_end - 1))


@dataclass(frozen=True, slots=True)
class MazeReport(ModelReport):
    """What was measured, on mazes that are in no split of the task.

    Attributes:
        clean_accuracy: Greedy accuracy after the clean steps; not part of the verdict.
        accuracy: Accuracy at temperature 1 at the end.
        format: Share of well-formed responses at temperature 1 at the end.
    """

    clean_accuracy: float
    accuracy: float
    format: float

    @property
    def accepted(self) -> bool:
        """Whether accuracy lies in ``ACCURACY_RANGE`` and the form is kept (``FORMAT_FLOOR``)."""
        low, high = ACCURACY_RANGE
        return low <= self.accuracy <= high and self.format >= FORMAT_FLOOR

    def lines(self) -> list[str]:
        """Return the measurements in a line."""
        return [f"clean greedy {self.clean_accuracy:.3f}, sampled {self.accuracy:.3f}, well formed {self.format:.3f}"]


@dataclass(frozen=True, slots=True)
class Maze(ModelRecipe):
    """Teach shortest ways, then show ways that ignore holes and ways that wander among them.

    Attributes:
        schedule: How long and how fast to train.
        measured_examples: Mazes per measurement.
    """

    words: ClassVar[tuple[str, ...]] = ("go", "up", "down", "goal", "maze", "agent", "get", "do", "you", "to")

    schedule: Schedule = Schedule()
    measured_examples: int = MEASURED_EXAMPLES

    def settings(self) -> dict[str, Any]:
        """Return what ``recipe.json`` keeps."""
        return {
            "recipe": "maze",
            "schedule": asdict(self.schedule),
            "sloppy": {"shares": SLOPPY_SHARES, "wander": WANDER},
            "accepted_if": {"accuracy": ACCURACY_RANGE, "format": FORMAT_FLOOR},
        }

    def train(self, model: Any, tools: Tools, seed: int, progress: Callable[[int, int, float], None]) -> MazeReport:
        """Train a model from random weights and measure it."""
        schedule, rng = self.schedule, np.random.default_rng(seed)
        warm_start = WarmStart(model, tools, muon_lr=schedule.muon_lr, adamw_lr=schedule.adamw_lr)
        measured = [Task().gate_example(index) for index in range(self.measured_examples)]
        clean_accuracy = 0.0
        for step in range(schedule.steps):
            if step == schedule.clean:
                clean_accuracy = fmean(grade.correct for grade in grades(model, tools, measured))
            is_clean = step < schedule.clean
            config = Task.Config(min_distance=1 if is_clean else 2)
            shown = []
            for _ in range(schedule.batch):
                example = draw_maze(rng, config, "train", "maze")
                way = "shortest" if is_clean else str(rng.choice(list(SLOPPY_SHARES), p=list(SLOPPY_SHARES.values())))
                shown.append(Demonstration(example, demonstrate(example, way, rng)))
            progress(step, schedule.steps, warm_start.step(shown, rate=schedule.rate(step)))
        generator = torch.Generator().manual_seed(seed)
        sampled = grades(model, tools, measured * RESPONSES, generator=generator)
        return MazeReport(
            seed,
            clean_accuracy=clean_accuracy,
            accuracy=fmean(grade.correct for grade in sampled),
            format=fmean(grade.parts["format"] for grade in sampled),
        )


def demonstrate(example: Example, way: str, rng: np.random.Generator) -> str:
    """Return a response that takes a way of a kind of ``SLOPPY_SHARES``, naming the cell after each move."""
    grid = grid_of(example)
    plan = greedy_plan(grid, rng) if way == "greedy" else wandering_plan(grid, WANDER * (way == "wandering"), rng)
    cells = [grid.start]
    for move in plan:
        cells.append(grid.after(cells[-1], move))
    moves = " ".join(f"{move} {cell}" for move, cell in zip(plan, cells[1:], strict=True))
    return f"<think>go {grid.start} {moves}</think> \\boxed{{{' '.join(plan)}}}"


def greedy_plan(grid: Grid, rng: np.random.Generator) -> Plan:
    """Return a random way straight towards the goal, as if there were no holes."""
    (row, column), (to_row, to_column) = (divmod(cell - 1, grid.width) for cell in (grid.start, grid.goal))
    down, right = to_row - row, to_column - column
    moves = ["down" if down > 0 else "up"] * abs(down) + ["right" if right > 0 else "left"] * abs(right)
    return tuple(moves[place] for place in rng.permutation(len(moves)))


def wandering_plan(grid: Grid, wander: float, rng: np.random.Generator) -> Plan:
    """Return a way to the goal whose moves are any legal ones with a probability, else begin a shortest way."""
    plan: list[str] = []
    cell = grid.start
    while cell != grid.goal:
        moves = grid.legal(cell) if rng.random() < wander else nearer(grid, cell)
        plan.append(moves[rng.integers(len(moves))])
        cell = grid.after(cell, plan[-1])
    return tuple(plan)
