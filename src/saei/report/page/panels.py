"""What can be drawn of a run: its panels, each with its numbers and what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saei.report.page.folder import Line, RunFolder, accuracy_interval

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve or several over training steps.

    Attributes:
        title: What is drawn.
        unit: Its unit.
        meaning: What the number means, in sentences.
        metrics: Label by name of the metric.
        interval: Returns the 95 % interval of the first metric, None for a metric without.
        together: Whether only steps are drawn at which every metric was taken.
    """

    title: str
    unit: str
    meaning: str
    metrics: Mapping[str, str]
    interval: Callable[[RunFolder, Line], Interval | None] | None = None
    together: bool = False


def panels_of(folder: RunFolder) -> list[Panel]:
    """Return what can be drawn of a run, the most important first."""
    names = {name for line in folder.lines for name in line}
    origins = origins_of(folder)

    def by_origin(metric: str) -> dict[str, str]:
        return {f"train/{origin}/{metric}": origin for origin in origins}

    panels = [
        Panel(
            "Accuracy",
            "share right",
            "Share of right responses to held-out examples that are never trained on, drawn at the training "
            "temperature from the picture as it is. The band is the 95 % interval over these examples.",
            {"eval/accuracy": "held-out"},
            accuracy_interval,
        ),
        Panel(
            "Entropy on the probe",
            "nats per token",
            "How undecided the policy is from token to token, on a fixed set of held-out examples as they are, at "
            "temperature 1. A policy that stops exploring ends near 0; below half of the first value the run counts as "
            "collapsed.",
            {"probe/entropy": "probe"},
        ),
        Panel(
            "Groups that teach nothing",
            "share of examples",
            "Share of the probe's examples whose responses are all right or all wrong. In training such a group has no "
            "advantage, and nothing is learnt from it.",
            {"probe/zero_variance": "all", "probe/all_right": "all right", "probe/all_wrong": "all wrong"},
        ),
        Panel(
            "Different answers",
            "per example",
            "How many different final answers the probe's responses to one example have.",
            {"probe/distinct_answers": "probe"},
        ),
        Panel(
            "Reward in training",
            "mean",
            "Mean reward of the step's responses, by the view that they were drawn from.",
            by_origin("reward") or {"train/reward": "all"},
        ),
        Panel(
            "Entropy in training",
            "nats per token",
            "Mean entropy of the step's responses, by view. That of perturbed views is higher by construction where "
            "the attack raises it: it is no evidence of exploration.",
            by_origin("entropy") or {"train/entropy": "all"},
        ),
        Panel(
            "What the attack raised",
            "nats",
            "The criterion, a mean over the chosen tokens of the clean responses, on the picture as it is and after "
            "the attack. A positive gap says that the attack worked.",
            {"train/intervention/criterion": "before", "train/intervention/criterion_after": "after"},
            together=True,
        ),
        Panel(
            "Length",
            "tokens",
            "Mean length of the step's responses, by view. Steps at which some were cut off are marked below.",
            by_origin("length") or {"train/length": "all"},
        ),
        Panel(
            "Distance between the views",
            "nats per token",
            "KL divergence of what the perturbed responses were drawn from to the policy on the clean view: how far "
            "the perturbation moves the policy.",
            {name: name.rpartition("/")[2] for name in sorted(names) if name.startswith("train/view_kl/")},
        ),
        Panel(
            "Norm of the gradient",
            "before clipping",
            "Norm of the update's gradient. Steps at which it was scaled down to optimizer.max_grad_norm are marked "
            "below.",
            {"train/grad_norm": "norm"},
        ),
        Panel(
            "Clipped tokens",
            "share",
            "Share of tokens whose ratio to the old policy left the clip range, by view.",
            by_origin("clip_share"),
        ),
    ]
    return [panel for panel in panels if panel.metrics.keys() & names]


def origins_of(folder: RunFolder) -> list[str]:
    """Return the origins of responses, the clean one first."""
    pattern = re.compile(r"train/([^/]+)/truncated")
    names = dict.fromkeys(match[1] for line in folder.lines for name in line if (match := pattern.fullmatch(name)))
    return sorted(names, key=lambda origin: (origin != "clean", origin))
