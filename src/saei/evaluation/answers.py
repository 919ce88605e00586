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

VIEWS_PER_BATCH = 32
"""Views whose responses are drawn together."""


@dataclass(frozen=True, eq=False, slots=True)
class AnswerSet:
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
) -> list[AnswerSet]:
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
    answer_sets = []
    for start in range(0, len(share), VIEWS_PER_BATCH):
        batch = share[start : start + VIEWS_PER_BATCH]
        generators = [sources(view) for view in batch]
        drawn = policy.sample(batch, [responses] * len(batch), sampling=sampling, generators=generators)
        attempts = [
            Attempt(view.example, response.text, response.truncated, len(response))
            for view, drawn_from_view in zip(batch, drawn, strict=True)
            for response in drawn_from_view
        ]
        grades = iter(reward.grade_all(attempts))
        answer_sets += [
            AnswerSet(view, tuple(drawn_from_view), tuple(islice(grades, responses)))
            for view, drawn_from_view in zip(batch, drawn, strict=True)
        ]
    if processes.count == 1:
        return answer_sets
    shares = processes.gather([(tuple(map(_detached, answers.responses)), answers.grades) for answers in answer_sets])
    of_all_views = (pair for pairs in shares for pair in pairs)
    return [AnswerSet(view, drawn, grades) for view, (drawn, grades) in zip(views, of_all_views, strict=True)]


def _detached(response: Response) -> Response:
    """Return a copy that can be sent to another process: tensors on the CPU, without the rest of their batch."""

    def on_cpu(values: Tensor) -> Tensor:
        return values.cpu().clone()

    return replace(
        response,
        ids_T=on_cpu(response.ids_T),
        behaviour_logp_T=on_cpu(response.behaviour_logp_T),
        entropy_T=on_cpu(response.entropy_T),
    )
