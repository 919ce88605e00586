"""Grid worlds as text: cells, plans, where a plan leads, and all shortest ways.

A grid is written as Gymnasium writes FrozenLake's maps, one letter per cell: ``S`` the start, ``G`` the goal, ``H`` a
hole, ``F`` firm ground. Cells are numbered by rows from 1. A plan is words of ``MOVES``. The border blocks: a move
against it leads nowhere. A hole ends the walk. A plan is right if it *ends* at the goal, which it may also pass over.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

START, GOAL, HOLE, GROUND = "SGHF"
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
"""What each word of a plan adds to row and column."""

Plan: TypeAlias = tuple[str, ...]

_BETWEEN = re.compile(r"[\s,;>→-]+")


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid world.

    Attributes:
        rows: Its letters, rows of one length from top to bottom.

    Example:
        In ``Grid(("SF", "HG"))`` the cells are ``1 2`` above ``3 4``. The only shortest way is ``right down``, and its
        path is ``(1, 2, 4)``; ``down`` falls into the hole.

    Raises:
        ValueError: If the rows are no such grid.
    """

    rows: tuple[str, ...]

    def __post_init__(self) -> None:
        letters = "".join(self.rows)
        if not letters or len({len(row) for row in self.rows}) > 1:
            raise ValueError("the rows of its map are not of one length")
        if not set(letters) <= {START, GOAL, HOLE, GROUND} or (letters.count(START), letters.count(GOAL)) != (1, 1):
            raise ValueError("its map is not made of one S, one G, and F and H")

    @property
    def width(self) -> int:
        """Cells in a row."""
        return len(self.rows[0])

    @property
    def size(self) -> int:
        """All cells."""
        return self.width * len(self.rows)

    @property
    def start(self) -> int:
        """The cell where a plan begins."""
        return "".join(self.rows).index(START) + 1

    @property
    def goal(self) -> int:
        """The cell where it has to end."""
        return "".join(self.rows).index(GOAL) + 1

    def is_hole(self, cell: int) -> bool:
        """Return whether a cell is a hole."""
        return self.rows[(cell - 1) // self.width][(cell - 1) % self.width] == HOLE

    def after(self, cell: int, move: str) -> int:
        """Return the cell that a move leads to, the same one at the border."""
        return _neighbours(len(self.rows), self.width)[cell][move]

    def legal(self, cell: int) -> tuple[str, ...]:
        """Return the moves that lead to another cell which is no hole."""
        return _legal(self)[cell]

    def walk(self, plan: Sequence[str]) -> list[int]:
        """Return the cells of a plan from the start on, one more than the moves made; a hole is the last one."""
        cells = [self.start]
        for move in plan:
            if self.is_hole(cells[-1]):
                break
            cells.append(self.after(cells[-1], move))
        return cells

    def solves(self, plan: Sequence[str]) -> bool:
        """Return whether a plan ends at the goal."""
        return self.walk(plan)[-1] == self.goal

    def path(self, plan: Sequence[str]) -> tuple[int, ...] | None:
        """Return the path of a right plan, None for a wrong one.

        The path is the walk without moves against the border and without its loops, cut in the order in which they
        close (Lawler 1980): plans that differ in nothing but these take the same path.
        """
        walked = self.walk(plan)
        if walked[-1] != self.goal:
            return None
        path: list[int] = []
        for cell in walked:
            del path[path.index(cell) if cell in path else len(path) :]
            path.append(cell)
        return tuple(path)


@lru_cache(maxsize=64)
def _neighbours(height: int, width: int) -> dict[int, dict[str, int]]:
    """Return by cell where each move leads."""
    table: dict[int, dict[str, int]] = {}
    for row in range(height):
        for column in range(width):
            to = {move: (row + down, column + right) for move, (down, right) in MOVES.items()}
            inside = {move: 0 <= r < height and 0 <= c < width for move, (r, c) in to.items()}
            stay = row * width + column + 1
            table[stay] = {move: r * width + c + 1 if inside[move] else stay for move, (r, c) in to.items()}
    return table


@lru_cache(maxsize=1024)
def _legal(grid: Grid) -> dict[int, tuple[str, ...]]:
    letters = " " + "".join(grid.rows)
    table = _neighbours(len(grid.rows), grid.width)
    return {
        cell: tuple(move for move, after in beside.items() if after != cell and letters[after] != HOLE)
        for cell, beside in table.items()
    }


@lru_cache(maxsize=1024)
def distances(grid: Grid) -> dict[int, int]:
    """Return how many moves each cell is from the goal; cells without a way to it, and holes, are missing."""
    away = {grid.goal: 0}
    to_visit = deque(away)
    while to_visit:
        cell = to_visit.popleft()
        for move in grid.legal(cell):  # a way there is a way back
            after = grid.after(cell, move)
            if after not in away:
                away[after] = away[cell] + 1
                to_visit.append(after)
    return away


def nearer(grid: Grid, cell: int) -> list[str]:
    """Return the moves from a cell that begin a shortest way to the goal."""
    away = distances(grid)
    return [move for move in grid.legal(cell) if away[grid.after(cell, move)] == away[cell] - 1]


def shortest_plans(grid: Grid) -> list[Plan]:
    """Return all plans of the shortest ways, in the order of ``MOVES``; none if the goal is out of reach."""
    away = distances(grid)
    plans: list[tuple[Plan, int]] = [((), grid.start)]
    for _ in range(away.get(grid.start, 0)):
        plans = [((*plan, move), grid.after(cell, move)) for plan, cell in plans for move in nearer(grid, cell)]
    return [plan for plan, cell in plans if cell == grid.goal]


def parse_plan(text: str) -> Plan | None:
    """Return the moves that a text lists, between spaces, commas or arrows; None if it is not a list of moves."""
    words = tuple(word for word in _BETWEEN.split(text.casefold().strip(" .")) if word)
    return words if words and set(words) <= set(MOVES) else None
