"""Fresh responses to held-out examples, drawn by all processes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from saei.config.run import SamplingConfig
from saei.evaluation.fresh import Answered, answer
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.processes import Processes
from saei.runtime.seeds import derive
from saei.types import Response, View


def answer_together(
    policy: Policy,
    reward: Reward,
    views: Sequence[View],
    *,
    responses: int,
    sampling: SamplingConfig,
    seed: int,
    per_example: bool,
    processes: Processes,
) -> list[Answered]:
    """Return every view with its responses, in all processes; each process draws for its share of the views.

    Args:
        policy: The policy.
        reward: Grades the responses.
        views: Clean views, the same in all processes.
        responses: Responses per view.
        sampling: How they are drawn.
        seed: Seed of the draws.
        per_example: Draw for each view from a source of its own, as several processes have to.
        processes: The processes.
    """
    numbers = processes.share(range(len(views)))
    own = answer(
        policy,
        reward,
        [views[number] for number in numbers],
        responses=responses,
        sampling=sampling,
        seed=seed,
        own_seeds=[derive(seed, views[number].index) for number in numbers] if per_example else None,
    )
    if processes.count == 1:
        return own
    parts = processes.gather([(tuple(map(_light, one.responses)), one.grades) for one in own])
    everything = (answered for part in parts for answered in part)
    return [Answered(view, drawn, grades) for view, (drawn, grades) in zip(views, everything, strict=True)]


def _light(response: Response) -> Response:
    """Return a response that goes to another process with nothing but its own numbers."""

    def own(values: Tensor) -> Tensor:
        return values.cpu().clone()

    return replace(
        response,
        ids_T=own(response.ids_T),
        behaviour_logp_T=own(response.behaviour_logp_T),
        entropy_T=own(response.entropy_T),
    )
