"""The recipe of mazes: its demonstrations, its vocabulary, its gate, and the base that ships."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from saei.builtin import Maze, build_tiny, builtin_path
from saei.builtin.batches import Tools
from saei.builtin.maze import (
    ACCURACY_RANGE,
    FORMAT_FLOOR,
    SLOPPY_SHARES,
    MazeReport,
    Schedule,
    demonstrate,
    greedy_plan,
    wandering_plan,
)
from saei.builtin.responses import grades, respond
from saei.builtin.vocabulary import build_tokenizer
from saei.config.sections import BUILTIN_MAZE
from saei.data.maze import WORDINGS, grid_of
from saei.data.maze import Maze as Task
from saei.grids import Grid, distances, parse_plan, shortest_plans
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.extraction import last_boxed
from saei.types import Example


def mazes(count: int) -> list[Example]:
    return [Task().example(index) for index in range(count)]


def test_a_demonstration_worked_by_hand() -> None:
    meta = {"answer_type": "plan", "map": ("FFFF", "FHSF", "FHFG", "FFFF")}
    text = demonstrate(Example("x", "?", "right down", meta=meta), "shortest", np.random.default_rng(0))
    assert text in (
        "<think>go 7 right 8 down 12</think> \\boxed{right down}",
        "<think>go 7 down 11 right 12</think> \\boxed{down right}",
    )


def test_shortest_and_wandering_ways_arrive_and_greedy_ones_ignore_holes() -> None:
    rng, reward = np.random.default_rng(0), AccuracyFormat()
    right: Counter[str] = Counter()
    longer = 0
    for example in mazes(150):
        grid = grid_of(example)
        shown = {way: demonstrate(example, way, rng) for way in SLOPPY_SHARES}
        plans = {way: parse_plan(last_boxed(text) or "") or () for way, text in shown.items()}
        for way, text in shown.items():
            grade = reward.grade(example, text)
            assert grade.parts["format"] == 1.0
            right[way] += grade.correct
        assert plans["shortest"] in shortest_plans(grid)
        rows = [abs(a - b) for a, b in zip(divmod(grid.start - 1, 4), divmod(grid.goal - 1, 4), strict=True)]
        assert len(plans["greedy"]) == sum(rows)
        no_holes = Grid(tuple(row.replace("H", "F") for row in grid.rows))
        assert no_holes.solves(plans["greedy"])
        longer += len(plans["wandering"]) > distances(grid)[grid.start]
    assert right["shortest"] == right["wandering"] == 150
    assert 15 <= right["greedy"] <= 75  # none of the detours, which are over half
    assert 50 <= longer <= 140


def test_ways_are_drawn_at_random() -> None:
    grid, rng = Grid(("SFF", "FFF", "FFG")), np.random.default_rng(0)
    assert {greedy_plan(grid, rng) for _ in range(200)} == set(shortest_plans(grid))
    assert {wandering_plan(grid, 0.0, rng) for _ in range(200)} == set(shortest_plans(grid))
    lengths = Counter(len(wandering_plan(Grid(("SG", "FF")), 0.5, rng)) for _ in range(4000))
    # Half of the first moves are the shortest one, the others any of two.
    assert lengths[1] / 4000 == pytest.approx(0.75, abs=0.03)  # four standard errors


def test_every_word_is_one_token_of_this_recipe_alone() -> None:
    tokenizer, general = build_tokenizer(Maze.words), build_tokenizer()
    rng = np.random.default_rng(0)
    spelled = {id for token, id in tokenizer.get_vocab().items() if token.startswith("<0x")}
    tools = Tools(tokenizer, None)
    for example in mazes(20):
        for way in SLOPPY_SHARES:
            text = demonstrate(example, way, rng)
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids) == text
            assert not spelled & {*ids, *tools.prompt(example)}
            assert len(ids) == len(re.findall(r"</?think>|\\boxed{|}|[a-z]+|[0-9]+", text))
    for wording in WORDINGS:
        assert not spelled & set(tokenizer(wording).input_ids)
    assert len(general(" goal").input_ids) > 1


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule()
    rates = [schedule.rate(step) for step in range(schedule.steps)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[19] == rates[385] == 1.0
    assert rates[386] < 1
    assert rates[549] == pytest.approx(0.1, abs=0.01)
    assert (rates[550], rates[-1]) == (pytest.approx(0.4), pytest.approx(0.03, abs=0.01))


def test_gate() -> None:
    low, high = ACCURACY_RANGE
    for accuracy, form, accepted in (
        (low, FORMAT_FLOOR, True),
        (high, 1.0, True),
        (low - 1e-3, 1.0, False),
        (high + 1e-3, 1.0, False),
        (low, FORMAT_FLOOR - 1e-3, False),
    ):
        report = MazeReport(7, clean_accuracy=0.0, accuracy=accuracy, format=form)
        assert report.accepted is accepted
        assert str(report).startswith(f"Seed 7 is {'accepted' if accepted else 'rejected'}.")


def test_the_recipe_writes_a_plain_folder(tmp_path: Path) -> None:
    report = build_tiny(tmp_path / "a", Maze(Schedule(clean=2, sloppy=1, batch=4), measured_examples=3), 5)
    assert not report.accepted
    kept = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert (kept["recipe"], kept["gate"]["seed"], kept["schedule"]["clean"]) == ("maze", 5, 2)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "a")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "a")(" goal").input_ids) == 1


@pytest.fixture(scope="module")
def base() -> tuple[torch.nn.Module, Tools]:
    folder = builtin_path(BUILTIN_MAZE)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Tools(
        AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")
    )


def test_the_shipped_base_leaves_something_to_learn(base: tuple[torch.nn.Module, Tools]) -> None:
    examples = [Task().example(index, "eval") for index in range(192)]
    found = grades(*base, examples, generator=torch.Generator().manual_seed(0))
    assert 0.25 <= np.mean([grade.correct for grade in found]) <= 0.55  # the gate's range and four standard errors
    assert np.mean([grade.parts["format"] for grade in found]) >= 0.9
    several = respond(*base, examples[:1] * 64, generator=torch.Generator().manual_seed(0))
    assert len(set(several)) >= 8
    folder = builtin_path(BUILTIN_MAZE)
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["gate"]["accepted"]
    assert {key: value for key, value in recipe.items() if key != "gate"} == json.loads(json.dumps(Maze().settings()))
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    assert (folder / "README.md").read_text().startswith("# ")


def test_the_shipped_tokenizer_is_the_recipes(base: tuple[torch.nn.Module, Tools]) -> None:
    fresh, rng = build_tokenizer(Maze.words), np.random.default_rng(1)
    for example in mazes(10):
        text = demonstrate(example, "wandering", rng)
        assert base[1].tokenizer(text).input_ids == fresh(text).input_ids
