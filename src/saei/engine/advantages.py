"""What the trainer does about advantages: it computes what they need, and logs what they do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from saei.engine.metrics import joined
from saei.need import Need
from saei.objectives.advantages.base import Advantage, train_group
from saei.policy import Policy
from saei.policy.statistics.base import DivergenceStatistic
from saei.policy.statistics.needs import statistic_of
from saei.runtime.processes import Processes
from saei.types import ScoredGroup, TrainGroup


def with_statistics(scored: ScoredGroup, needs: Collection[Need], policy: Policy) -> ScoredGroup:
    """Return a group with what its advantage needs, under the views that its responses were drawn from."""
    if not needs:
        return scored
    group = scored.group
    longest = max(map(len, group.responses))
    values: dict[Need, list[Tensor]] = {need: [torch.empty(0)] * len(group.responses) for need in needs}
    for number, view in enumerate(group.views):
        drawn = [n for n, source in enumerate(group.sampled_from) if source == number]
        # The clean view's divergence from itself is 0, which needs no pass.
        computed = [need for need in needs if number or not _from_clean(need)]
        responses = [group.responses[n] for n in drawn]
        [statistics] = policy.statistics(computed, [view], [responses], clean=[group.views[0]], drawn=True)
        policy.forget_states()
        for need in needs:
            none_NT = torch.zeros(len(drawn), longest, device=policy.device)
            of_view_NT = statistics.get(need, none_NT)
            for n, values_T in zip(drawn, of_view_NT, strict=True):
                values[need][n] = pad(values_T, (0, longest - len(values_T)))
    return ScoredGroup(group, scored.grades, {need: torch.stack(rows) for need, rows in values.items()})


def _from_clean(need: Need) -> bool:
    """Return whether a need is for a divergence of the current policy from itself under the clean view."""
    divergence = isinstance(statistic_of(need), DivergenceStatistic)
    return divergence and need.view == "clean" and need.policy == "current"


def advantage_metrics(
    train_groups: Sequence[TrainGroup], advantage: Advantage, rewards: Sequence[float], processes: Processes
) -> dict[str, float]:
    """Return the shares of responses and tokens that an advantage acts on, also by origin; see ``Advantage``.

    Args:
        train_groups: This process's groups, with their advantages.
        advantage: The advantage.
        rewards: Those of all groups of the step.
        processes: The processes whose groups are counted.
    """
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for train in train_groups:
        shaped = None if advantage.shaped is None else train_group(train.scored, advantage.shaped, rewards)
        for n, response in enumerate(train.group.responses):
            own_T = train.at_tokens(n)
            of_response = {"nonzero": (int(own_T.any()), 1)}
            if shaped is not None:
                of_response["shaped"] = (int((own_T != shaped.at_tokens(n)).sum()), len(response))
            for name, count in of_response.items():
                counts[f"advantage/{name}"].append(count)
                counts[f"{train.group.origin(n)}/advantage/{name}"].append(count)
    of_all = joined(processes.gather(dict(counts)))
    return {name: sum(hits for hits, _ in each) / max(1, sum(of for _, of in each)) for name, each in of_all.items()}
