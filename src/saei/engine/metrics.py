"""What is logged about a step's groups, also for the responses of each origin."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import TypeVar

import torch

from saei.evaluation.metrics import mean
from saei.need import Need
from saei.objectives.kl import k3
from saei.policy import Policy
from saei.runtime.processes import Processes
from saei.types import CLEAN, UNTOUCHED, Drops, Group, ScoredGroup

T = TypeVar("T")

CLEAN_LOGP = Need("logp", view="clean")


def group_metrics(
    scored: Sequence[ScoredGroup],
    processes: Processes | None = None,
    *,
    graded: bool = False,
    reasons: Sequence[str] = (),
) -> dict[str, float]:
    """Return means of reward, its parts, accuracy, length, truncation and entropy, and how groups vary.

    Zero variance is counted on accuracy, separately for all right and all wrong: a format reward would hide it. Under
    a graded reward it is the share of groups whose rewards are all equal. Metrics of the interventions are included.

    Args:
        scored: This process's groups.
        processes: The processes whose groups are counted; None for this one alone.
        graded: Rewards are numbers between right and wrong.
        reasons: The gates' possible reasons to leave groups alone, each of which is logged, 0 included.
    """
    processes = processes or Processes()
    values: dict[str, list[float]] = defaultdict(list)
    for scored_group in scored:
        for n, (response, grade) in enumerate(zip(scored_group.group.responses, scored_group.grades, strict=True)):
            numbers = {
                "reward": grade.reward,
                "accuracy": float(grade.correct),
                "length": float(len(response)),
                "truncated": float(response.truncated),
                "entropy": float(response.entropy_T.mean()) if len(response) else 0.0,
            }
            for name, number in grade.parts.items():
                values[f"parts/{name}"].append(number)
            for name, number in numbers.items():
                values[name].append(number)
                values[f"{scored_group.group.origin(n)}/{name}"].append(number)
        values["all_right"].append(float(all(grade.correct for grade in scored_group.grades)))
        values["all_wrong"].append(float(not any(grade.correct for grade in scored_group.grades)))
        values["equal_rewards"].append(float(len(set(scored_group.rewards)) <= 1))
        values["reward_std"].append(stdev(scored_group.rewards) if len(scored_group.rewards) > 1 else 0.0)
        for name, number in scored_group.group.metrics.items():
            values[f"intervention/{name}"].append(number)
    metrics = {name: mean(numbers) for name, numbers in joined(processes.gather(dict(values))).items()}
    equal = metrics.pop("equal_rewards")
    metrics["zero_variance"] = equal if graded else metrics["all_right"] + metrics["all_wrong"]
    groups = processes.total(len(scored))
    left_alone = Counter(
        reason
        for of_process in processes.gather([scored_group.group.untouched for scored_group in scored])
        for reason in of_process
        if reason
    )
    metrics["untouched"] = sum(left_alone.values()) / groups
    listed = dict.fromkeys((*UNTOUCHED, *reasons, *sorted(left_alone)))
    return metrics | {f"untouched/{reason}": left_alone[reason] / groups for reason in listed}


def drop_metrics(
    scored: Sequence[ScoredGroup], dropped: Sequence[Drops], processes: Processes, *, reasons: Sequence[str] = ()
) -> dict[str, float]:
    """Return the share of the step's responses that are not trained on, in total and by reason.

    Args:
        scored: This process's groups.
        dropped: For each group the responses that are dropped, and why.
        processes: The processes whose groups are counted.
        reasons: The guards' possible reasons, each of which is logged, 0 included.
    """
    responses = processes.total(sum(len(scored_group.grades) for scored_group in scored))
    counts = Counter(
        reason
        for of_process in processes.gather([reason for drops in dropped for reason in drops.values()])
        for reason in of_process
    )
    listed = dict.fromkeys((*reasons, *sorted(counts)))
    return {"dropped": counts.total() / responses} | {
        f"dropped/{reason}": counts[reason] / responses for reason in listed
    }


def joined(parts: Sequence[Mapping[str, list[T]]]) -> dict[str, list[T]]:
    """Return the lists of several mappings, joined by name."""
    joint: dict[str, list[T]] = {}
    for part in parts:
        for name, values in part.items():
            joint.setdefault(name, []).extend(values)
    return joint


def view_divergence(policy: Policy, groups: Sequence[Group], processes: Processes | None = None) -> dict[str, float]:
    """Return ``view_kl/<origin>``: how far what responses were drawn from is from the policy on the clean view.

    It is the KL divergence in nats per token, estimated by the mean of Schulman's k3 over the tokens of these
    responses, with the log-probabilities that they were drawn with. Costs one scoring of them under the clean view.
    """
    views, clean, responses = [], [], []
    for group in groups:
        for number, view in enumerate(group.views):
            if view.origin != CLEAN and number in group.sampled_from:
                drawn = zip(group.responses, group.sampled_from, strict=True)
                views.append(view)
                clean.append(group.views[0])
                responses.append([response for response, source in drawn if source == number])
    by_origin: dict[str, list[torch.Tensor]] = defaultdict(list)
    statistics_of_views = policy.statistics([CLEAN_LOGP], views, responses, clean=clean) if views else []
    for view, drawn_from, statistics in zip(views, responses, statistics_of_views, strict=True):
        for response, logp_T in zip(drawn_from, statistics[CLEAN_LOGP], strict=True):
            by_origin[view.origin].append(k3(logp_T[: len(response)] - response.behaviour_logp_T).cpu())
    everywhere = joined((processes or Processes()).gather(dict(by_origin)))
    return {f"view_kl/{origin}": float(torch.cat(parts).mean()) for origin, parts in everywhere.items()}


class UpdateLog:
    """Collects the objective's values per response, and the numbers of each optimiser step, of one training step."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}
        self._losses: list[float] = []
        self._norms: list[float] = []

    def add(self, origins: Sequence[str], metrics: Mapping[str, torch.Tensor]) -> None:
        """Note the metrics of a micro-batch.

        Args:
            origins: Origin of the view that each response was drawn from.
            metrics: One value per response by name, NaN for a response that the loss leaves out.
        """
        for name, values_R in metrics.items():
            for origin, value in zip(origins, values_R.tolist(), strict=True):
                if not math.isnan(value):
                    self._values.setdefault(name, {}).setdefault(origin, []).append(value)

    def step(self, loss: float, norm: float) -> None:
        """Note an optimiser step: this process's share of the loss, and the norm of the gradient before clipping."""
        self._losses.append(loss)
        self._norms.append(norm)

    def summary(self, processes: Processes) -> dict[str, float]:
        """Return means over all processes; also by origin.

        A metric whose name ends in ``_max`` is a maximum, one whose name ends in ``_tokens`` a sum over the step.
        """
        losses = [sum(shares) for shares in zip(*processes.gather(self._losses), strict=True)]
        summary = {"loss": sum(losses) / len(losses), "grad_norm": sum(self._norms) / len(self._norms)}
        parts = processes.gather(self._values)
        for name in dict.fromkeys(name for part in parts for name in part):
            by_origin = joined([part.get(name, {}) for part in parts])
            reduce = max if name.endswith("_max") else sum if name.endswith("_tokens") else mean
            summary[name] = reduce([value for values in by_origin.values() for value in values])
            summary |= {f"{origin}/{name}": reduce(values) for origin, values in by_origin.items()}
        return summary
