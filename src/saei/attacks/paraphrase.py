"""Another wording of the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from saei.attacks.base import Attack, Point, PointCriterion, Space
from saei.config.strategy import StrategyConfig


class Paraphrase(Attack):
    """Takes another of the task's own wordings at random: a changed text that keeps the meaning and the answer.

    The control of attacks on text, which may change what is asked. It never asks the criterion. Source: original.
    """

    spaces = frozenset({"wording"})
    moves = ("wording",)
    origin = "paraphrased"
    ball = "none"

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["paraphrase"] = "paraphrase"

    config: Config

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the numbers of other wordings, drawn uniformly; at strength 0 the start."""
        moved = []
        for block, block_space, example in zip(start, space.blocks, space.examples, strict=True):
            others = [number for number in range(int(block_space.high) + 1) if number != int(block)]
            drawn = others[int(torch.randint(len(others), (), generator=generators[example]))] if others else int(block)
            moved.append(torch.full_like(block, drawn) if block_space.scale else block.clone())
        return tuple(moved)
