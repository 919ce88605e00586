"""The grader of plans: moves through a grid world, graded by making them."""

from __future__ import annotations

from saei.errors import shown
from saei.grids import Grid, Plan, parse_plan
from saei.rewards.graders.base import AnswerKey, Verdict
from saei.rewards.graders.normalize import normalize, plain_words


def plan(answer: str, key: AnswerKey) -> Verdict:
    """Moves that end at the goal and lead through no hole; which of several such plans does not matter."""
    moves = _read(answer)
    if moves is None:
        return Verdict(False, f"no plan of moves: '{shown(answer)}'")
    grid = Grid(key.map)
    cells = grid.walk(moves)
    if cells[-1] == grid.goal:
        return Verdict(True, f"at the goal after {len(moves)} moves")
    if grid.is_hole(cells[-1]):
        return Verdict(False, f"in a hole after {len(cells) - 1} moves")
    return Verdict(False, f"ends at cell {cells[-1]}, not at the goal")


def plan_problem(key: AnswerKey) -> str:
    """Return why an example can have no right plan or its gold answer is none, an empty text if all is well."""
    try:
        grid = Grid(key.map)
    except ValueError as error:
        return str(error)
    moves = _read(key.gold)
    if moves is None:
        return "it is not a list of moves"
    return "" if grid.solves(moves) else "it does not lead to the goal of its map"


def _read(text: str) -> Plan | None:
    return parse_plan(text) or parse_plan(plain_words(normalize(text)))
