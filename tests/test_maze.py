"""Grid worlds: plans against a brute-force execution of all of them, pictures read back, splits, guessers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError

from commands import Saei
from saei.data.base import Split, Task
from saei.data.images import COLOURS
from saei.data.maze import QUESTION, Maze, draw_maze, grid_of
from saei.data.shifts import SHADES
from saei.errors import DataError
from saei.evaluation.floors import guess_floors
from saei.grids import Grid, distances, parse_plan, shortest_plans
from saei.rewards.accuracy_format import AccuracyFormat
from saei.testing import check_task
from saei.types import Example
from test_tasks import unlit

DETOUR = Grid(("SFF", "HHF", "GFF"))
STEPS = {"up": -1j, "down": 1j, "left": -1, "right": 1}


def make(**fields: Any) -> Maze:
    return Maze(Maze.Config(**fields))


def example_on(*rows: str) -> Example:
    return Example("x", QUESTION, "right", meta={"answer_type": "plan", "map": rows})


def plans(longest: int) -> Iterator[tuple[str, ...]]:
    for length in range(longest + 1):
        yield from itertools.product(STEPS, repeat=length)


def executed(rows: tuple[str, ...], plan: tuple[str, ...]) -> list[complex]:
    """Return the places of a plan, as column + row·i; the last is a hole, or where the plan ends."""
    letters = {complex(c, r): letter for r, row in enumerate(rows) for c, letter in enumerate(row)}
    places = [place for place, letter in letters.items() if letter == "S"]
    for move in plan:
        if letters[places[-1]] == "H":
            return places
        to = places[-1] + STEPS[move]
        places.append(to if to in letters else places[-1])
    return places


@pytest.mark.parametrize("number", range(6))
def test_every_plan_on_small_grids(number: int) -> None:
    rng = np.random.default_rng(number)
    letters = rng.choice(list("FFH"), 9)
    letters[rng.choice(9, 2, replace=False)] = ["S", "G"]
    rows = tuple("".join(row) for row in letters.reshape(3, 3))
    grid = Grid(rows)
    goal = complex(*reversed(divmod("".join(rows).index("G"), 3)))
    right = set()
    for plan in plans(6):
        places = executed(rows, plan)
        assert grid.walk(plan) == [int(place.imag * 3 + place.real) + 1 for place in places]
        assert grid.solves(plan) == (places[-1] == goal)
        assert (grid.path(plan) is None) == (places[-1] != goal)
        if places[-1] == goal:
            right.add(plan)
    least = min(map(len, right), default=None)
    assert distances(grid).get(grid.start) == least
    if least is not None:
        assert set(shortest_plans(grid)) == {plan for plan in right if len(plan) == least}
        assert all(len(set(path)) == len(path) for plan in right if (path := grid.path(plan)))
    else:
        assert shortest_plans(grid) == []


def test_a_detour_worked_by_hand() -> None:
    assert (DETOUR.start, DETOUR.goal) == (1, 7)
    assert shortest_plans(DETOUR) == [("right", "right", "down", "down", "left", "left")]
    assert DETOUR.path(shortest_plans(DETOUR)[0]) == (1, 2, 3, 6, 9, 8, 7)
    assert not DETOUR.solves(("down", "down"))  # through a hole
    assert DETOUR.walk(("down", "down")) == [1, 4]
    with_bump_and_loop = ("up", "right", "left", "right", "right", "down", "down", "right", "left", "left", "left")
    assert DETOUR.path(with_bump_and_loop) == (1, 2, 3, 6, 9, 8, 7)
    over_the_goal = (*shortest_plans(DETOUR)[0], "right")
    assert not DETOUR.solves(over_the_goal)
    assert DETOUR.path((*over_the_goal, "left")) == (1, 2, 3, 6, 9, 8, 7)


def test_two_ways_of_one_length_are_two_solutions() -> None:
    task, example = make(), example_on("SF", "FG")
    assert set(task.best_solutions(example)) == {"1 2 4", "1 3 4"}
    assert task.solution(example, "right down") == task.solution(example, "up, right, down") == "1 2 4"
    assert task.solution(example, "down right") == "1 3 4"
    assert task.solution(example, "right") is None
    assert task.solution(example, "fly") is None


@pytest.mark.parametrize(
    ("answer", "right", "said"),
    [
        ("right right down down left left", True, "the same text"),
        ("right right down right down left left", True, "at the goal after 7 moves"),
        ("down down", False, "in a hole after 1 moves"),
        ("right right down down left left right", False, "ends at cell 8"),
        ("right right down down left left left", True, "at the goal"),
        ("right", False, "ends at cell 2"),
        ("7", False, "no plan"),
    ],
)
def test_the_reward_executes_the_plan(answer: str, right: bool, said: str) -> None:
    grade = AccuracyFormat().grade(example_on(*DETOUR.rows), f"<think>go</think> \\boxed{{{answer}}}")
    assert grade.correct is False  # its gold answer does not reach the goal, so that no answer is right
    example = Example("x", QUESTION, "right right down down left left", meta=example_on(*DETOUR.rows).meta)
    grade = AccuracyFormat().grade(example, f"<think>go</think> \\boxed{{{answer}}}")
    assert (grade.correct, grade.reward) == (right, pytest.approx(1.0 if right else 0.1))
    assert said in grade.reason


@pytest.mark.parametrize(
    ("rows", "answer", "said"),
    [
        (("SFG",), "right", "does not lead to the goal"),
        (("SFG",), "2", "not a list of moves"),
        (("SF", "G"), "down", "not of one length"),
        (("SGG",), "right", "one S, one G"),
        (("SXG",), "right", "one S, one G"),
        ((), "right", "not of one length"),
    ],
)
def test_a_map_or_gold_plan_that_cannot_be_used_is_refused(rows: tuple[str, ...], answer: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        AccuracyFormat().check(Example("x", QUESTION, answer, meta={"answer_type": "plan", "map": rows}))
    with pytest.raises(DataError, match="list of rows"):
        AccuracyFormat().check(Example("x", QUESTION, answer, meta={"answer_type": "plan", "map": "SFG"}))


def test_texts_that_are_plans() -> None:
    assert parse_plan("Right, down -> LEFT → up.") == ("right", "down", "left", "up")
    assert parse_plan("") is parse_plan("...") is parse_plan("right 2") is parse_plan("right\\down") is None


@pytest.mark.parametrize(("shift", "colours"), [("none", COLOURS), ("colours", SHADES), ("noisy", COLOURS)])
def test_the_picture_shows_the_map(shift: Any, colours: Any) -> None:
    palette = np.array([(225, 225, 225), *(colours[name] for name in ("blue", "red", "green"))], dtype=float)
    for index in range(12):
        plain, example = make().example(index, "eval"), make(shift=shift).example(index, "eval")
        assert (plain.question, plain.answer, plain.meta) == (example.question, example.answer, example.meta)
        cells = unlit(example).reshape(4, 16, 4, 16, 3).mean(axis=(1, 3))
        nearest = ((cells[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
        assert tuple("".join("FHSG"[i] for i in row) for row in nearest) == example.meta["map"]
        grain = (unlit(example).reshape(4, 16, 4, 16, 3) - cells[:, None, :, None]).transpose(0, 2, 1, 3, 4)
        assert grain[nearest == 3][..., 1].std() == pytest.approx(40 if shift == "noisy" else 6, rel=0.15)
        pixels = np.asarray(example.images[0])
        assert (pixels.min() >= 127 - 32, pixels.max() <= 128 + 32) == (True, True)


def test_mazes_are_as_the_config_asks() -> None:
    for fields in ({}, {"min_distance": 4}, {"max_distance": 5}, {"detours": 1.0}, {"detours": 0.0}, {"size": 5}):
        task = make(**fields)
        check_task(task.config, count=4)
        for index in range(40):
            example = task.example(index)
            grid = grid_of(example)
            plan = parse_plan(example.answer)
            assert plan in shortest_plans(grid)
            assert example.meta["distance"] == len(plan)
            assert task.config.min_distance <= len(plan) <= task.config.max_distance
            (row, column), (to_row, to_column) = (divmod(cell - 1, grid.width) for cell in (grid.start, grid.goal))
            longer = len(plan) > abs(row - to_row) + abs(column - to_column)
            assert example.meta["way"] == ("detour" if longer else "direct")
            assert longer or task.config.detours < 1
            assert example.images[0].size == (16 * task.config.size,) * 2
    detours = [make().example(index).meta["way"] == "detour" for index in range(200)]
    assert 0.5 < np.mean(detours) < 0.7  # some of the others are detours by chance
    holes = [letter == "H" for i in range(200) for row in make(detours=0).example(i).meta["map"] for letter in row]
    assert 0.15 < np.mean(holes) < 0.3  # fewer than drawn: grids without a way are drawn anew


def test_no_layout_is_in_two_splits_whatever_the_seed() -> None:
    """In 3 x 3 cells layouts come again and again: 300 draws of two splits would share many."""
    config = Maze.Config(size=3, detours=0.0)
    layouts = {
        (part, seed): {grid_of(draw_maze(rng, config, part, "x")).rows for _ in range(150)}
        for part in ("train", "eval", "gate")
        for seed in range(2)
        if (rng := np.random.default_rng([seed, len(part)]))
    }
    assert layouts["eval", 0] & layouts["eval", 1]
    for (part, _), (other, _) in itertools.combinations(layouts, 2):
        if part != other:
            shared = [layouts[part, seed] & layouts[other, another] for seed in (0, 1) for another in (0, 1)]
            assert not any(shared)
    gate = {grid_of(make().gate_example(index)).rows for index in range(20)}
    assert len(gate) >= 19


def test_the_training_set_may_end() -> None:
    assert (make().size(), make().size("eval")) == (None, None)
    assert (make(examples=64).size(), make(examples=64).size("eval")) == (64, None)
    assert make(examples=64).example(7).answer == make().example(7).answer


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"min_distance": 5, "max_distance": 4}, "at least 5 and at most 4"),
        ({"size": 2}, "detour"),
        ({"max_distance": 3}, "detour"),
        ({"holes": 0.0}, "detour"),
        ({"size": 10}, "less than or equal to 9"),
        ({"examples": 0}, "greater than or equal to 1"),
    ],
)
def test_fields_that_no_maze_can_have(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Maze.Config(**fields)


def test_mazes_that_are_hardly_ever_drawn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saei.data.maze.MOST_DRAWS", 200)
    with pytest.raises(DataError, match=r"None of 200 was: size 2, holes 0\.3, distance 3 to 9"):
        make(size=2, detours=0.0, min_distance=3).example(0)


@pytest.mark.parametrize(
    ("question", "answered"),
    [
        ("How do you get to the goal?", True),
        ("how do I walk to a goal", True),
        ("How can we go to the goal in the maze?", True),
        ("How do you get to the agent?", False),
        ("What do you get to the goal?", False),
        ("How do you get the goal?", False),
        ("", False),
    ],
)
def test_what_a_changed_question_asks(question: str, answered: bool) -> None:
    example = make().example(0)
    assert make().answer(example, question) == (example.answer if answered else None)


def test_guessers_walk_legally() -> None:
    task = make(examples=5)
    lengths = {task.example(index).meta["distance"] for index in range(5)}
    for index in range(20):
        example = task.example(index, "eval")
        rng = np.random.default_rng(index)
        for _ in range(10):
            walks = task.guesses(example, rng)
            assert set(walks) == {"legal walk", "legal walk to the goal"}
            for name, text in walks.items():
                places = executed(example.meta["map"], tuple(text.split()))
                assert all(place != after for place, after in itertools.pairwise(places))
                letters = [example.meta["map"][int(place.imag)][int(place.real)] for place in places]
                assert "H" not in letters
                if name == "legal walk":
                    assert len(text.split()) in lengths
                else:
                    assert "G" not in letters[:-1]
                    assert letters[-1] == "G" or len(text.split()) == 9


class Letters(Task):
    """Of four training examples three are a; evaluation asks for b and for a."""

    class Config(Task.Config):
        type: Literal["letters"] = "letters"

    def example(self, index: int, split: Split = "train") -> Example:
        answer = "aaab"[index] if split == "train" else "ba"[index]
        return Example(f"{split}-{index}", "?", answer, meta={"answer_type": "text", "kind": "x"})

    def size(self, split: Split = "train") -> int:
        return 4 if split == "train" else 2

    def guesses(self, example: Example, rng: np.random.Generator) -> dict[str, str]:
        return {"coin": "ab"[rng.integers(2)], "sure": example.answer}


def test_floors_worked_by_hand() -> None:
    floors = {floor.guesser: floor.pass_at for floor in guess_floors(Letters(), ks=(1, 2, 300))}
    assert list(floors) == ["blind", "any known answer", "coin", "sure"]
    assert floors["blind"][1] == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert floors["blind"][2] == pytest.approx((1 - (3 / 4) ** 2 + 1 - (1 / 4) ** 2) / 2)
    assert floors["any known answer"][2] == pytest.approx(3 / 4)
    assert floors["coin"][1] == pytest.approx(1 / 2, abs=0.06)  # 600 draws: four standard errors of two means
    assert floors["coin"][2] == pytest.approx(3 / 4, abs=0.06)
    assert set(floors["sure"].values()) == {1.0}


def test_a_task_without_training_examples_has_no_known_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "splits", lambda self: ("eval",))
    assert [floor.guesser for floor in guess_floors(Letters(), ks=(1,))] == ["coin", "sure"]


def test_the_walk_to_the_goal_on_a_corridor() -> None:
    """Of four moves from the second cell: right right 1/4, left right right right 1/8, right left right right 1/16."""
    task, rng = make(max_distance=4), np.random.default_rng(0)
    example = example_on("FSFG")
    walks = [task.guesses(example, rng)["legal walk to the goal"] for _ in range(2000)]
    assert np.mean([walk == "right right" for walk in walks]) == pytest.approx(1 / 4, abs=0.04)  # four standard errors
    assert np.mean([Grid(("FSFG",)).solves(walk.split()) for walk in walks]) == pytest.approx(7 / 16, abs=0.045)


def test_saei_data_floor_prints_them(saei: Saei) -> None:
    code, out, _ = saei("data", "floor", "--task", "maze", "--examples", "4", "--training", "8", "--pass-at", "1,4")
    assert code == 0
    assert "legal walk to the goal" in out
    code, out, _ = saei("data", "floor", "--task", "bars", "--examples", "4", "--pass-at", "2", "--json")
    report = json.loads(out)
    assert [floor["guesser"] for floor in report["floors"]] == ["blind", "any known answer"]
    assert list(report["floors"][0]["pass_at"]) == ["2"]
    code, _, said = saei("data", "floor", "--task", "bars", "--pass-at", "0")
    assert (code, "numbers from 1" in said) == (2, True)
