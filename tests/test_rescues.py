"""Rescues: groups counted by hand, further clean responses by a script, and a run that trains as without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from groups import spoken
from runs import Checksum, lines, registered, tiny, train
from saei.config.strategy import StrategyConfig
from saei.engine.rescues import Rescues
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.processes import Processes
from saei.runtime.seeds import GroupSources, globals_kept
from saei.types import Example, Grade, Group, Response, ScoredGroup, View


class Said(Reward):
    """A response is right if it says 7."""

    class Config(StrategyConfig):
        type: Literal["said"] = "said"

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        return Grade(float(text == "7"), text == "7", {}, text)


class Script:
    """A policy that gives each view the next responses of its script, and notes what it was asked."""

    def __init__(self, policy: Policy, script: dict[int, list[str]]) -> None:
        self.policy, self.script = policy, script
        self.asked: list[tuple[int, str, int]] = []
        self.on_decoded: Any = "the training's"

    def sample(self, views: Sequence[View], counts: Sequence[int], *, generators: Any) -> list[list[Response]]:
        assert self.on_decoded is None
        self.asked += [(view.index, view.origin, count) for view, count in zip(views, counts, strict=True)]
        self.seeds = [generator.initial_seed() for generator in generators]
        return [
            [spoken(self.policy, self.script[view.index].pop(0)) for _ in range(count)]
            for view, count in zip(views, counts, strict=True)
        ]


def scored(policy: Policy, view: View, index: int, clean: str, others: str) -> ScoredGroup:
    """A group whose responses are single digits."""
    view = replace(view, index=index)
    views = (view, replace(view, origin="adversarial"))
    responses = tuple(spoken(policy, digit) for digit in clean + others)
    sampled_from = (0,) * len(clean) + (1,) * len(others)
    group = Group(view.example, views, responses, sampled_from, sampled_from)
    return ScoredGroup(group, tuple(Said().grade(view.example, response.text) for response in responses))


def rescues(policy: Any, when: str = "always", seed: int = 0) -> Rescues:
    config = tiny(Path("model"), Path("runs"), reward="accuracy-format", seed=seed, evaluation__rescues=when)
    return Rescues(config, policy, Said(), Processes())


def test_groups_counted_by_hand(random_policy: Policy, views: list[View]) -> None:
    groups = [
        scored(random_policy, views[0], 0, "17", "11"),  # a clean response solves it
        scored(random_policy, views[0], 1, "11", "17"),  # rescued
        scored(random_policy, views[0], 2, "23", "45"),  # nobody solves it
        scored(random_policy, views[0], 3, "11", "777"),  # rescued, by three responses
        scored(random_policy, views[0], 4, "11", "1"),
        scored(random_policy, views[0], 5, "111", ""),  # has no others, so that nothing could rescue it
    ]
    script = Script(random_policy, {1: ["1", "1"], 2: ["1", "7"], 3: ["1", "1", "7"], 4: ["2"]})
    assert rescues(script).metrics(3, groups, evaluated=False) == {
        "intervention/rescues/groups": 4.0,
        "intervention/rescues": 0.5,
        "intervention/rescues/clean": 0.5,
    }
    # As many further clean responses as there are others, each from its group's clean view.
    assert script.asked == [(1, "clean", 2), (2, "clean", 2), (3, "clean", 3), (4, "clean", 1)]
    assert script.on_decoded == "the training's"
    first = script.seeds
    training = GroupSources(0, "sample", 3)
    assert not set(first) & {training(group.group.views[0]).initial_seed() for group in groups}
    for step, seed, same in ((3, 0, True), (3, 1, False), (4, 0, False)):
        script = Script(random_policy, {index: ["1"] * 3 for index in range(1, 5)})
        rescues(script, seed=seed).metrics(step, groups, evaluated=True)
        assert (script.seeds == first) is same


def test_further_responses_are_drawn_when_they_are_asked_for(random_policy: Policy, views: list[View]) -> None:
    groups = [scored(random_policy, views[0], 1, "11", "17")]
    counted = {"intervention/rescues/groups": 1.0, "intervention/rescues": 1.0}
    for when, evaluated, drawn in (
        ("never", True, False),
        ("evaluated-steps", False, False),
        ("evaluated-steps", True, True),
        ("always", False, True),
    ):
        script = Script(random_policy, {1: ["7", "1"]})
        metrics = rescues(script, when).metrics(0, groups, evaluated=evaluated)
        assert metrics == counted | ({"intervention/rescues/clean": 1.0} if drawn else {})
        assert bool(script.asked) is drawn


def test_no_share_of_no_groups_and_nothing_of_clean_groups(random_policy: Policy, views: list[View]) -> None:
    solved = [scored(random_policy, views[0], 0, "17", "11")]
    assert rescues(Script(random_policy, {})).metrics(0, solved, evaluated=True) == {"intervention/rescues/groups": 0.0}
    clean = [scored(random_policy, views[0], 0, "11", "")]
    assert rescues(Script(random_policy, {})).metrics(0, clean, evaluated=True) == {}


class Dicey(Checksum):
    """A reward that rolls dice, which a pure function would not."""

    class Config(StrategyConfig):
        type: Literal["dicey"] = "dicey"

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        grade = super().grade(example, text, truncated=truncated)
        dice = random.random() + float(np.random.rand()) + float(torch.rand(()))  # noqa: NPY002
        return replace(grade, reward=grade.reward + 0.01 * dice)


def test_a_run_trains_bit_for_bit_as_without(model: Path, tmp_path: Path) -> None:
    with registered(Dicey):
        runs = {
            when: train(tiny(model, tmp_path, when, reward="dicey", evaluation__rescues=when)).run.path
            for when in ("always", "never")
        }
    always, never = (lines(runs[when]) for when in ("always", "never"))
    measured = [line.pop("train/intervention/rescues/clean", None) for line in always]
    assert any(share is not None for share in measured)
    assert always == never  # the budget among them
    weights = ["checkpoints/step-000003/model.safetensors", "checkpoints/step-000003/trainer.pt"]
    for name in weights:
        assert (runs["always"] / name).read_bytes() == (runs["never"] / name).read_bytes()


@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.rand()), lambda: float(torch.rand(()))])  # noqa: NPY002
def test_global_generators_are_given_back(draw: Any) -> None:
    with globals_kept():
        first = draw()
    with globals_kept():
        assert draw() == first
    assert draw() == first
