"""``saei eval``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.options import AsJson, Assignments, Plugins, policy_config, task_flags

if TYPE_CHECKING:
    from saei.config import RunConfig

DRAWN = "How responses are drawn"


def evaluate(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="builtin, a run's folder, a checkpoint, a model folder, or a hub id.")
    ] = "builtin",
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Task; by default the run's own, without a run bars.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="Your data: a file, a folder, or a hub id.")] = None,
    examples: Annotated[int, typer.Option(min=1, metavar="N", help="Examples of the eval split.")] = 128,
    responses: Annotated[int, typer.Option(min=1, metavar="N", help="Responses to each.", rich_help_panel=DRAWN)] = 8,
    temperature: Annotated[float, typer.Option(min=0.0, metavar="T", help="0 is greedy.", rich_help_panel=DRAWN)] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, metavar="P", help="Likeliest tokens that sum up to P.", rich_help_panel=DRAWN),
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the N likeliest tokens.", rich_help_panel=DRAWN)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the draws.", rich_help_panel=DRAWN)] = 0,
    set_: Assignments = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Measure a policy on held-out examples, clean view: accuracy and how varied its answers are."""
    from saei.layers import nested

    layers = [nested(path, value) for path, value in task_flags(task, data).items() if value is not None]
    config = policy_config(model, layers, set_ or [], plugin or [])
    print(f"Loading {config.model.path} ...", file=sys.stderr, flush=True)
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    measured, metrics = measure(config, sampling, examples=examples, responses=responses, seed=seed)
    report: dict[str, Any] = {
        "model": config.model.path,
        "task": config.task.model_dump(mode="json"),
        "split": "eval",
        "examples": measured,
        "responses": responses,
        **sampling,
        "seed": seed,
    }
    if as_json:
        print(json.dumps(report | {"metrics": metrics}, indent=2))
    else:
        _show(report, metrics)


def measure(
    config: RunConfig, sampling: dict[str, Any], *, examples: int, responses: int, seed: int
) -> tuple[int, dict[str, float]]:
    """Return the number of examples there were, and accuracy and probe metrics of the policy that a run names."""
    from saei.engine.stream import ViewStream
    from saei.evaluation.accuracy import accuracy_metrics
    from saei.evaluation.fresh import answer
    from saei.evaluation.probe import probe_metrics
    from saei.policy import Policy

    task = config.task.build()
    policy = Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)
    reward = config.reward.build()
    stream = ViewStream(task, policy, seed=config.seed, max_bad_share=config.training.max_bad_share, reward=reward)
    views = stream.held_out(examples)
    for report in (*task.notes(), *stream.unreported()):
        print(report, file=sys.stderr)
    answered = answer(
        policy,
        reward,
        views,
        responses=responses,
        sampling=config.sampling.model_copy(update=sampling),
        seed=seed,
    )
    found = accuracy_metrics(answered)
    if sampling["temperature"] == 1 and sampling["top_p"] == 1 and sampling["top_k"] is None:
        found |= probe_metrics(answered, task)  # defined for this distribution only
    return len(views), found


def _show(report: dict[str, Any], metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    limits = "".join(f", {name} {report[name]}" for name in ("top_p", "top_k") if report[name] not in (None, 1.0))
    console = Console(highlight=False)
    console.print(
        f"{report['model']} on {report['examples']} examples of {report['task']['type']} (eval split, clean view), "
        f"{report['responses']} responses each at temperature {report['temperature']}{limits}, seed {report['seed']}",
        markup=False,
    )
    table = Table("measure", "value", box=None, padding=(0, 2, 0, 0))
    error = metrics["accuracy_se"]
    table.add_row("accuracy", f"{metrics['accuracy']:.3f} (standard error {error:.3f})")
    for name, value in metrics.items():
        if name not in ("accuracy", "accuracy_se"):
            table.add_row(name.replace("_", " "), f"{value:.3f}")
    console.print(table)
