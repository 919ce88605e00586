"""Fresh responses to the clean view of eval examples: what accuracy and the collapse probe are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from saei.config.run import SamplingConfig
from saei.policy import Policy
from saei.rewards.base import Attempt, Reward
from saei.types import Grade, Response, View

TOGETHER = 32
"""Views whose responses are drawn together."""


@dataclass(frozen=True, eq=False, slots=True)
class Answered:
    """One view with fresh responses and their grades."""

    view: View
    responses: tuple[Response, ...]
    grades: tuple[Grade, ...]


def answer(
    policy: Policy,
    reward: Reward,
    views: Sequence[View],
    *,
    responses: int,
    sampling: SamplingConfig,
    seed: int,
    own_seeds: Sequence[int] | None = None,
) -> list[Answered]:
    """Sample and grade ``responses`` fresh responses per view.

    Args:
        policy: The policy.
        reward: Grades the responses.
        views: Clean views.
        responses: Responses per view.
        sampling: How they are drawn.
        seed: Seed of the draws.
        own_seeds: One seed per view in place of ``seed``: no view's responses depend on which others there are.
    """
    generator: torch.Generator | list[torch.Generator] = torch.Generator().manual_seed(seed)
    answered = []
    for start in range(0, len(views), TOGETHER):
        part = views[start : start + TOGETHER]
        if own_seeds is not None:
            generator = [torch.Generator().manual_seed(one) for one in own_seeds[start : start + TOGETHER]]
        drawn = policy.sample(part, [responses] * len(part), sampling=sampling, generators=generator)
        attempts = [
            Attempt(view.example, r.text, r.truncated, len(r))
            for view, own in zip(part, drawn, strict=True)
            for r in own
        ]
        grades = iter(reward.grade_all(attempts))
        answered += [
            Answered(view, tuple(own), tuple(islice(grades, len(own)))) for view, own in zip(part, drawn, strict=True)
        ]
    return answered
