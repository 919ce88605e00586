"""Fresh responses to the clean view of eval examples: what accuracy and the collapse probe are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from saei.config.sections import SamplingConfig
from saei.policy import Policy
from saei.rewards.base import Attempt, Reward
from saei.runtime.processes import Processes
from saei.runtime.seeds import GroupSources
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
    processes: Processes | None = None,
) -> list[Answered]:
    """Sample and grade ``responses`` fresh responses per view.

    Each view draws from a source of its own, seeded by ``seed`` and its index: its responses depend neither on which
    other views there are nor on the number of processes.

    Args:
        policy: The policy.
        reward: Grades the responses.
        views: Clean views of different indices, the same in all processes.
        responses: Responses per view.
        sampling: How they are drawn.
        seed: Seed of the draws.
        processes: Those that share the views out; all of them return every view with its responses.
    """
    processes = processes or Processes()
    sources = GroupSources(seed)
    share = processes.share(views)
    answered = []
    for start in range(0, len(share), TOGETHER):
        batch = share[start : start + TOGETHER]
        generators = [sources(view) for view in batch]
        drawn = policy.sample(batch, [responses] * len(batch), sampling=sampling, generators=generators)
        attempts = [
            Attempt(view.example, response.text, response.truncated, len(response))
            for view, drawn_from_view in zip(batch, drawn, strict=True)
            for response in drawn_from_view
        ]
        grades = iter(reward.grade_all(attempts))
        answered += [
            Answered(view, tuple(drawn_from_view), tuple(islice(grades, responses)))
            for view, drawn_from_view in zip(batch, drawn, strict=True)
        ]
    if processes.count == 1:
        return answered
    parts = processes.gather([(tuple(map(_detached, one.responses)), one.grades) for one in answered])
    everywhere = (pair for part in parts for pair in part)
    return [Answered(view, drawn, grades) for view, (drawn, grades) in zip(views, everywhere, strict=True)]


def _detached(response: Response) -> Response:
    """Return a response to be sent to another process: its tensors on the CPU, and of a batch's only its own part."""

    def own(values: Tensor) -> Tensor:
        return values.cpu().clone()

    return replace(
        response,
        ids_T=own(response.ids_T),
        behaviour_logp_T=own(response.behaviour_logp_T),
        entropy_T=own(response.entropy_T),
    )
