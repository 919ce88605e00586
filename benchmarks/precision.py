"""What bfloat16 does to SaEI: does the same selection come out, and does the attack go the same way as in float32?

The float32 policy draws six responses per prompt. The same responses are scored again with bfloat16 weights, and with
float32 weights under autocast to bfloat16: which tokens does the selector choose by those entropies, and which signs
has the gradient of the criterion at the pixels, for the tokens that float32 chose?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saei.config.run import RunConfig, validate
from saei.evaluation.statistics.intervals import Interval, mean_interval
from saei.interventions import Intervention
from saei.interventions.group_criterion import token_stats
from saei.policy import Policy
from saei.runtime.seeds import GroupSources
from saei.types import Response, View

RESPONSES = 6
"""Per prompt, as the paper attacks."""

MEASURES = ("selection overlap", "sign agreement", "gradient cosine")


def selections(
    policy: Policy, intervention: Intervention, views: Sequence[View], responses: Sequence[list[Response]]
) -> list[Tensor]:
    """Return what the selector chooses of each prompt's responses by the entropies of this policy."""
    with torch.no_grad():
        scores = policy.score(views, responses)
    chosen = []
    for view, own, score in zip(views, responses, scores, strict=True):
        assert score.entropy_NT is not None
        stats = token_stats(policy, view, own, intervention.selector.needs)
        stats = replace(stats, entropy_NT=score.entropy_NT, logp_NT=score.logp_NT)
        generator = torch.Generator().manual_seed(0)
        chosen.append(intervention.selector.select(stats, progress=0.0, generator=generator))
    return chosen


def gradients(
    policy: Policy,
    intervention: Intervention,
    views: Sequence[View],
    responses: Sequence[list[Response]],
    chosen: Sequence[Tensor],
) -> list[Tensor]:
    """Return for each prompt the criterion's gradient at its picture."""
    point = [canvas.clone().requires_grad_() for view in views for canvas in view.canvases]
    scores = policy.score(views, responses, wrt={"pixels": point}, needs=intervention.criterion.needs, clean=views)
    values = [
        intervention.criterion.value(score, selected_NT, pooled=intervention.selector.pooled)
        for score, selected_NT in zip(scores, chosen, strict=True)
    ]
    return list(torch.autograd.grad(torch.stack(values).sum(), point))


def compare(config: RunConfig, prompts: int, batch: int) -> dict[str, Any]:
    """Measure on the first prompts of the eval split; means over prompts."""

    def load(dtype: str) -> Policy:
        model = config.model.model_copy(update={"dtype": dtype})
        return Policy.load(model, config.template.build(), sampling=config.sampling, entropy=config.entropy)

    full, task, intervention = load("float32"), config.task.build(), Intervention()
    # accelerate's mixed precision
    cast = full.with_module(torch.autocast(full.device.type, torch.bfloat16)(full.module.forward))
    ways = {"bfloat16 weights": load("bfloat16"), "autocast to bfloat16": cast}
    sources = GroupSources(config.seed)
    found: dict[str, dict[str, list[float]]] = {name: {measure: [] for measure in MEASURES} for name in ways}
    for start in track(range(0, prompts, batch), "prompts", transient=True):
        views = [full.view(task.example(index, "eval"), index) for index in range(start, min(start + batch, prompts))]
        drawn = full.sample(views, [RESPONSES] * len(views), generators=[sources(view) for view in views])
        chosen = selections(full, intervention, views, drawn)
        right = gradients(full, intervention, views, drawn, chosen)
        for name, policy in ways.items():
            others = selections(policy, intervention, views, drawn)
            ours = gradients(policy, intervention, views, drawn, chosen)
            for a_NT, b_NT, a, b in zip(chosen, others, right, ours, strict=True):
                moved = a != 0
                values = (
                    float((a_NT & b_NT).sum() / a_NT.sum()),
                    float((a.sign() == b.sign())[moved].float().mean()),
                    float(cosine_similarity(a.flatten(), b.flatten(), dim=0)),
                )
                for measure, value in zip(MEASURES, values, strict=True):
                    found[name][measure].append(value)
    return {
        "model": config.model.path,
        "task": config.task.type,
        "prompts": prompts,
        "ways": {
            name: {measure: asdict(mean_interval(values)) for measure, values in own.items()}
            for name, own in found.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    console = Console(width=110)
    console.print(f"{result['model']} on {result['task']}, {result['prompts']} prompts, against float32\n")
    table = Table("mean and 95 % t-interval", *MEASURES, box=None)
    for name, own in result["ways"].items():
        intervals = [Interval(**own[measure]) for measure in MEASURES]
        table.add_row(name, *(f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})" for one in intervals))
    console.print(table)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Compare, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin", help="builtin, a folder or a hub id")
    parser.add_argument("--task", default="bars")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="prompts at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    config = validate({"model": {"path": options.model}, "task": options.task, "seed": options.seed})
    result = compare(config, options.prompts, options.batch)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
