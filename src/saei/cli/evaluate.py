"""``saei eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    model: Annotated[str, typer.Option(help="builtin, a checkpoint, a run, or a hub id.")] = "builtin",
    task: Annotated[str | None, typer.Option(help="Task; a run's own by default, else bars.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Held-out examples.")] = 128,
    responses: Annotated[int, typer.Option(min=1, help="Responses per example.")] = 8,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Most likely tokens kept.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any field of the run; repeatable.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Python file or module with strategies; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a policy on held-out examples: sampled accuracy and the collapse probe, clean view."""
    from saei.config import RunConfig, dump, validate
    from saei.engine import checkpoint
    from saei.engine.rundir import RunDir
    from saei.layers import load_config, merge, nested, parse_assignment

    layers: list[dict[str, Any]] = [nested("task.type", task)] if task else []
    run = Path(model)
    if (run / "config.yaml").is_file():
        data = dump(RunDir.open(run)[1])
        layers.append(nested("model.path", str(checkpoint.latest(run / "checkpoints"))))
        for layer in [*layers, *map(parse_assignment, set_ or [])]:
            data = merge(RunConfig, data, layer)
        config = validate(data)
    else:
        layers.append(nested("model.path", model))
        config = load_config(flags=layers, assignments=set_ or [], plugins=plugin or [])
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    found = measure(config, sampling, examples=examples, responses=responses, seed=seed)
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "value", box=None)
    for name, value in found.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(f"{config.model.path} on {config.task.type}: {examples} examples x {responses} responses")
    Console().print(table)


def measure(config: Any, sampling: dict[str, Any], *, examples: int, responses: int, seed: int) -> dict[str, float]:
    """Return accuracy and probe metrics of the policy that a run configuration names."""
    from saei.engine.stream import ViewStream
    from saei.evaluation.accuracy import accuracy_metrics
    from saei.evaluation.fresh import answer
    from saei.evaluation.probe import probe_metrics
    from saei.policy import Policy

    task = config.task.build()
    policy = Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)
    stream = ViewStream(task, policy, seed=config.seed, max_bad_share=config.training.max_bad_share)
    answered = answer(
        policy,
        config.reward.build(),
        stream.held_out(examples),
        responses=responses,
        sampling=config.sampling.model_copy(update=sampling),
        seed=seed,
    )
    return accuracy_metrics(answered) | probe_metrics(answered, task)
