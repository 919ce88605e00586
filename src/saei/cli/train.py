"""``saei train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from saei.config import RunConfig
    from saei.engine.rundir import RunDir


def train(
    config: Annotated[Path | None, typer.Option(help="YAML file; defaults < file < flags < --set.")] = None,
    model: Annotated[str | None, typer.Option(help="builtin, a folder, or a hub id.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set: folder, file or hub id (task dataset).")] = None,
    task: Annotated[str | None, typer.Option(help="Task, such as bars or digits.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler: mixed (SaEI) or clean (plain GRPO).")] = None,
    selector: Annotated[str | None, typer.Option(help="Tokens that the attack's criterion looks at.")] = None,
    attack: Annotated[str | None, typer.Option(help="How the image is moved.")] = None,
    objective: Annotated[str | None, typer.Option(help="Policy loss.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of all runs.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, such as attack.step=4/255; repeatable.")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Python file or module with strategies; repeatable.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a run from its newest checkpoint.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live display.")] = False,
) -> None:
    """Train a policy. Without arguments: SaEI on the built-in model and the bars task."""
    from saei.layers import load_config, nested

    flags = {
        "model.path": model,
        "task.type": "dataset" if data else task,
        "task.path": data,
        "sampler.type": sampler,
        "selector.type": selector,
        "attack.type": attack,
        "objective.type": objective,
        "training.steps": steps,
        "seed": seed,
        "output.name": name,
        "output.root": None if output is None else str(output),
    }
    layers: list[dict[str, Any]] = [nested(path, value) for path, value in flags.items() if value is not None]
    if resume is not None:
        run, resolved = _continued(resume, layers, set_ or [])
    else:
        run = None
        resolved = load_config(file=config, flags=layers, assignments=set_ or [], plugins=plugin or [])
    start(resolved, run, plain=plain)


def start(config: RunConfig, run: RunDir | None = None, *, plain: bool = False) -> Path:
    """Train, or go on with a run; an interrupt says how to go on and leaves with exit code 130."""
    from saei.engine import Trainer
    from saei.engine.display import LiveDisplay, PlainDisplay
    from saei.engine.interrupt import Interrupted

    live = sys.stderr.isatty() and not plain
    trainer = Trainer(config, resume=run, display=LiveDisplay() if live else PlainDisplay())
    folder = trainer.run.path
    try:
        trainer.train()
    except Interrupted as stopped:
        print(f"{stopped} Go on with:\n  saei train --resume {folder}", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print(
            f"Stopped at once. If a checkpoint was written, go on with:\n  saei train --resume {folder}",
            file=sys.stderr,
        )
        sys.exit(130)
    print(f"Done: {folder}", file=sys.stderr)
    return folder


def _continued(folder: Path, layers: list[dict[str, Any]], assignments: list[str]) -> tuple[RunDir, RunConfig]:
    """Return a run and its configuration, with a new number of steps or output settings if they were asked for.

    Raises:
        ConfigError: If another field would change.
    """
    from saei.config import RunConfig, dump, validate
    from saei.engine.rundir import RunDir
    from saei.errors import ConfigError
    from saei.layers import changed, merge, parse_assignment

    run, config = RunDir.open(folder)
    data = dump(config)
    for layer in [*layers, *map(parse_assignment, assignments)]:
        data = merge(RunConfig, data, layer)
    asked = validate(data)
    refused = [
        path
        for path in changed(dump(config), dump(asked))
        if path != "training.steps" and not path.startswith("output.")
    ]
    if refused:
        raise ConfigError(
            "A resumed run keeps its configuration, but for the number of steps and the output settings.",
            reason=f"Changed: {', '.join(refused)}.",
            remedy="Leave these out, or start a new run.",
        )
    return run, asked
