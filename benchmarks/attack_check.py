"""What one step of the attack does to a policy, beside random signs of the same size.

(a) On the six responses that were attacked and (b) on six others drawn from the clean view: does the criterion, the
entropy of the selected tokens, rise when they are scored again under the moved picture? (c) On newly sampled responses:
do token entropy, answer entropy, the number of distinct answers and accuracy differ from the clean view's? Moved
pictures go through a PNG file first. The criterion's selection is made on the clean view and stays.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from saei.config.run import RunConfig, validate
from saei.evaluation.answers import AnswerSet, answer
from saei.evaluation.metrics import answer_entropy, distinct_answers, mean
from saei.evaluation.statistics.intervals import Interval, mean_interval
from saei.interventions import Intervention, InterventionConfig
from saei.interventions.context import StepContext
from saei.interventions.group_criterion import token_stats
from saei.policy import Policy, Scores
from saei.policy.pixels.space import to_image
from saei.runtime.seeds import GroupSources
from saei.types import Response, View

ATTACKED = 6
"""Responses per prompt that the attack sees, and as many that it does not."""

BATCH = 8
"""Prompts at once."""

METRICS: dict[str, Callable[[AnswerSet], float]] = {
    "token entropy, nats": lambda one: (
        sum(float(response.entropy_T.sum()) for response in one.responses) / sum(map(len, one.responses))
    ),
    "answer entropy, nats": lambda one: answer_entropy(one.grades),
    "distinct answers": lambda one: float(distinct_answers(one.grades)),
    "accuracy": lambda one: mean([float(grade.correct) for grade in one.grades]),
}


def through_png(policy: Policy, view: View) -> View:
    """Return a view of what comes back from the PNG files of its pictures."""
    canvases = []
    for canvas in view.canvases:
        file = io.BytesIO()
        to_image(canvas).save(file, "PNG")
        canvases.append(policy.pixels.canvas(Image.open(file)).to(canvas.device))
    return replace(view, canvases=tuple(canvases))


def moved_views(
    attacks: dict[str, Intervention], views: Sequence[View], responses: Sequence[list[Response]], step: StepContext
) -> dict[str, list[View]]:
    """Return the clean views and what each intervention makes of them, through PNG files."""
    moved = {name: [out.view for out in own.apply(views, responses, step)] for name, own in attacks.items()}
    return {
        name: [through_png(step.policy, view) for view in own] for name, own in {"clean": list(views), **moved}.items()
    }


def criteria(
    policy: Policy, intervention: Intervention, views: dict[str, list[View]], responses: Sequence[list[Response]]
) -> dict[str, list[float]]:
    """Return the criterion of each prompt's responses under each kind of view, the selection made by their sampling."""
    generator = torch.Generator().manual_seed(0)
    stats = [
        token_stats(policy, view, own, intervention.selector.needs)
        for view, own in zip(views["clean"], responses, strict=True)
    ]
    chosen = [intervention.selector.select(own, progress=0.0, generator=generator) for own in stats]

    def value(scores: Scores, selected_NT: torch.Tensor) -> float:
        return float(intervention.criterion.value(scores, selected_NT, pooled=intervention.selector.pooled))

    found = {}
    for name, own in views.items():
        needs = intervention.criterion.needs
        scores = policy.score(own, responses, with_entropy=False, needs=needs, clean=views["clean"])
        found[name] = [value(*pair) for pair in zip(scores, chosen, strict=True)]
    return found


def rises(values: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return per moved view the share of prompts in which the criterion rises, and by how much."""
    table = {}
    for name, moved in values.items():
        pairs = [(new, old) for new, old in zip(moved, values["clean"], strict=True)]
        table[name] = {
            "criterion": mean(moved),
            "share_that_rises": mean([float(new > old) for new, old in pairs]),
            "relative_change": mean([new / old - 1 for new, old in pairs if old > 0]),
            "change": asdict(mean_interval([new - old for new, old in pairs])),
        }
    del table["clean"]["share_that_rises"], table["clean"]["relative_change"], table["clean"]["change"]
    return table


def differences(answered: dict[str, list[AnswerSet]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each metric's mean over prompts per view, with the paired difference to the clean view."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for metric, function in METRICS.items():
        values = {name: [function(one) for one in own] for name, own in answered.items()}
        table[metric] = {name: {"mean": mean(own)} for name, own in values.items()}
        for name in values.keys() - {"clean"}:
            paired = [new - old for new, old in zip(values[name], values["clean"], strict=True)]
            table[metric][name]["difference"] = asdict(mean_interval(paired))
    return table


def check(config: RunConfig, step: Fraction, prompts: int, fresh: int) -> dict[str, Any]:
    """Run the check on the first prompts of the eval split."""
    policy = Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)
    task, reward = config.task.build(), config.reward.build()
    attacks = {
        "attack": Intervention(InterventionConfig(attack={"type": "pgd", "step": step})),
        "random signs": Intervention(InterventionConfig(attack={"type": "noise", "radius": step})),
    }
    step_context = StepContext(policy, progress=0.0, sources=GroupSources(config.seed))
    kinds = ("clean", *attacks)
    attacked: dict[str, list[float]] = {name: [] for name in kinds}
    others: dict[str, list[float]] = {name: [] for name in kinds}
    answered: dict[str, list[AnswerSet]] = {name: [] for name in kinds}
    for start in track(range(0, prompts, BATCH), "prompts", transient=True):
        numbers = range(start, min(start + BATCH, prompts))
        views = [policy.view(task.example(number, "eval"), number) for number in numbers]
        drawn = policy.sample(views, [2 * ATTACKED] * len(views), generators=step_context.generators(views))
        seen, unseen = [own[:ATTACKED] for own in drawn], [own[ATTACKED:] for own in drawn]
        moved = moved_views(attacks, views, seen, step_context)
        for table, responses in ((attacked, seen), (others, unseen)):
            for name, values in criteria(policy, attacks["attack"], moved, responses).items():
                table[name] += values
        for name, own in moved.items():
            answered[name] += answer(
                policy, reward, own, responses=fresh, sampling=config.sampling, seed=config.seed + start
            )
    return {
        "model": config.model.path,
        "task": config.task.type,
        "prompts": prompts,
        "fresh": fresh,
        "step": str(step),
        "attacked": rises(attacked),
        "others": rises(others),
        "fresh_responses": differences(answered),
    }


def show(result: dict[str, Any]) -> None:
    console = Console(width=110)
    console.print(
        f"{result['model']} on {result['task']}: {result['prompts']} prompts, step {result['step']}, "
        f"{result['fresh']} new responses per view\n"
    )
    table = Table("criterion, nats", "view", "mean", "rises in", "mean relative change", "change", box=None)
    for name, key in ((f"(a) {ATTACKED} attacked", "attacked"), (f"(b) {ATTACKED} others", "others")):
        for view, row in result[key].items():
            cells = []
            if view != "clean":
                cells = [f"{row['share_that_rises']:.0%}", f"{row['relative_change']:+.1%}", signed(row["change"])]
            table.add_row(name, view, f"{row['criterion']:.4f}", *cells)
    console.print(table)
    table = Table("(c) new responses", "view", "mean", "difference to clean, 95 % t-interval", box=None)
    for metric, rows in result["fresh_responses"].items():
        for view, row in rows.items():
            table.add_row(metric, view, f"{row['mean']:.4f}", signed(row["difference"]) if view != "clean" else "")
    console.print(table)


def signed(interval: dict[str, float]) -> str:
    """Return an interval as text."""
    own = Interval(**interval)
    return f"{own.mean:+.4f} ({own.low:+.4f} to {own.high:+.4f})"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the check, print tables, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin", help="builtin, a folder or a hub id")
    parser.add_argument("--task", default="bars")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--fresh", type=int, default=64, help="new responses per view and prompt")
    parser.add_argument("--step", type=Fraction, default=Fraction(2, 255), help="of the [0, 1] pixel range")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    config = validate({"model": {"path": options.model}, "task": options.task, "seed": options.seed})
    result = check(config, options.step, options.prompts, options.fresh)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
