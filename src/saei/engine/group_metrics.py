"""What is logged about a step's groups, always apart by origin."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch

from saei.evaluation.metrics import mean
from saei.policy import Policy
from saei.types import CLEAN, Group, ScoredGroup


def group_metrics(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Return reward, accuracy, length, truncated share and entropy by origin, zero variance, and the interventions'.

    Zero variance is counted on accuracy, all right and all wrong apart: a format reward would hide it.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for one in scored:
        for n, (response, grade) in enumerate(zip(one.group.responses, one.grades, strict=True)):
            numbers = {
                "reward": grade.reward,
                "accuracy": float(grade.correct),
                "length": float(len(response)),
                "truncated": float(response.truncated),
                "entropy": float(response.entropy_T.mean()) if len(response) else 0.0,
            }
            for name, number in numbers.items():
                values[name].append(number)
                values[f"{one.group.origin(n)}/{name}"].append(number)
        values["all_right"].append(float(all(grade.correct for grade in one.grades)))
        values["all_wrong"].append(float(not any(grade.correct for grade in one.grades)))
        for name, number in one.group.metrics.items():
            values[f"intervention/{name}"].append(number)
    found = {name: mean(numbers) for name, numbers in values.items()}
    found["zero_variance"] = found["all_right"] + found["all_wrong"]
    left_alone = Counter(one.group.untouched for one in scored if one.group.untouched)
    found["untouched"] = sum(left_alone.values()) / len(scored)
    return found | {f"untouched/{reason}": count / len(scored) for reason, count in left_alone.items()}


@torch.no_grad()
def view_divergence(policy: Policy, groups: Sequence[Group]) -> dict[str, float]:
    """Return ``view_kl/<origin>``, the KL divergence of an intervened view from the clean one, in nats per token.

    Estimated on the intervened view's own responses by ``mean(exp(-d) - 1 + d)``, d the difference of their
    log-probabilities under both views (Schulman's k3). Costs one scoring of those responses.
    """
    views, responses, origins = [], [], []
    for group in groups:
        own = [n for n, view in enumerate(group.sampled_from) if group.views[view].origin != CLEAN]
        if own:
            views.append(group.views[0])
            responses.append([group.responses[n] for n in own])
            origins.append([group.origin(n) for n in own])
    if not views:
        return {}
    with policy.open(views) as prefix:
        scores = prefix.score(responses, with_entropy=False)
    by_origin: dict[str, list[torch.Tensor]] = defaultdict(list)
    for score, own_responses, own_origins in zip(scores, responses, origins, strict=True):
        for n, (response, origin) in enumerate(zip(own_responses, own_origins, strict=True)):
            difference_T = response.behaviour_logp_T - score.logp_NT[n, : len(response)]
            by_origin[origin].append((-difference_T).exp() - 1 + difference_T)
    return {f"view_kl/{origin}": float(torch.cat(parts).mean()) for origin, parts in by_origin.items()}
