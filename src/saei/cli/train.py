"""``saei train``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.loading import loading
from saei.cli.options import FLAG, Assignments, Plugins, Trust, task_flags
from saei.console import say
from saei.runtime.launcher import first_process

if TYPE_CHECKING:
    from saei.config.run import RunConfig
    from saei.runtime.run_dir import RunDir


class Engine(StrEnum):
    """Which loop trains."""

    saei = "saei"
    trl = "trl"


WHAT, HOW, RUN = "What is trained", "How (names of strategies: saei list)", "The run"


def train(
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="builtin, a folder, or a hub id.", rich_help_panel=WHAT),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Task, such as bars or geometry3k.", rich_help_panel=WHAT)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Your data: a file, a folder, or a hub id.", rich_help_panel=WHAT),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="mixed (SaEI), clean (GRPO), noisy, arms, dynamic.", rich_help_panel=HOW),
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which tokens the attack looks at.", rich_help_panel=HOW),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What moves the view: its picture or its question.", rich_help_panel=HOW),
    ] = None,
    objective: Annotated[str | None, typer.Option(metavar="NAME", help="Policy loss.", rich_help_panel=HOW)] = None,
    plugin: Plugins = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML; the flags go over it, --set over both.", rich_help_panel=RUN),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training steps.", rich_help_panel=RUN)] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of everything random.", rich_help_panel=RUN)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of all runs.", rich_help_panel=RUN)
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of this run's folder.", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run's folder from its newest checkpoint.", rich_help_panel=RUN),
    ] = None,
    trust: Trust = False,
    set_: Assignments = None,
    engine: Annotated[
        Engine, typer.Option(help="saei's own loop, or TRL's for vLLM and DeepSpeed ZeRO.", rich_help_panel=RUN)
    ] = Engine.saei,
    trl: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="With --engine trl: an argument of its GRPOConfig.", rich_help_panel=RUN
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", metavar=FLAG, help="Plain lines instead of the live display.")
    ] = False,
) -> None:
    """Train a policy. Without options: SaEI on the built-in model and the task bars."""
    from saei.config.overrides import load_config, nested
    from saei.errors import ConfigError

    flags = {
        "model.path": model,
        **task_flags(task, data),
        "sampler.type": sampler,
        "selector.type": selector,
        "attack.type": attack,
        "objective.type": objective,
        "training.steps": steps,
        "seed": seed,
        "output.name": name,
        "output.root": None if output is None else str(output),
    }
    if trl and engine is not Engine.trl:
        raise ConfigError("--trl belongs to --engine trl.", remedy="Leave it out, or give --engine trl.")
    settings: list[dict[str, Any]] = [nested(path, value) for path, value in flags.items() if value is not None]
    if trust and resume is None:
        raise ConfigError("--trust belongs to --resume.", remedy="Leave it out: what you name yourself is trusted.")
    if resume is None:
        resolved = load_config(file=config, flags=settings, assignments=set_ or [], plugins=plugin or [])
        if engine is Engine.trl:
            _start_trl(resolved, trl or [])
        else:
            start(resolved, plain=plain)
        return
    if engine is Engine.trl:
        raise ConfigError(
            "saei resumes runs of its own engine.",
            reason="TRL's checkpoints hold no state of samplers and streams.",
            remedy="Start a new run: from its last checkpoint (--model), if it has one.",
        )
    if config or plugin:
        raise ConfigError(
            "A resumed run takes its configuration and plugins from its folder.",
            reason=f"{'--config' if config else '--plugin'} was given.",
            remedy="Leave it out.",
        )
    from saei.cli.resume import resumed_run

    run, resolved = resumed_run(resume, settings, set_ or [], trust=trust)
    start(resolved, run, plain=plain)


def start(config: RunConfig, run: RunDir | None = None, *, plain: bool = False) -> None:
    """Train, or resume a run; an interrupt prints how to resume and exits with code 130.

    Args:
        config: The run's configuration.
        run: The run to go on with, None for a new one.
        plain: Plain lines also on a terminal.
    """
    with loading(config, plain=plain):
        from saei.engine import Trainer
        from saei.engine.display import LiveDisplay, PlainDisplay
        from saei.runtime.interrupt import Interrupted
        from saei.runtime.processes import destroy_process_group

        live = sys.stderr.isatty() and not plain
        trainer = Trainer(config, resume=run, display=LiveDisplay() if live else PlainDisplay())
    folder = trainer.run.path
    message = None
    try:
        trainer.train()
    except Interrupted as stopped:
        message = str(stopped)
    except KeyboardInterrupt:
        _say_how_to_go_on("Stopped at once.", folder)
        sys.exit(130)
    except Exception:  # of any kind; it is raised again after the way to resume is printed
        _say_how_to_go_on("An error ended the run; it is named below.", folder)
        raise
    del trainer
    destroy_process_group()
    if message is not None:
        _say_how_to_go_on(message, folder)
        sys.exit(130)
    _say(f"Done: {folder}")


def _start_trl(config: RunConfig, assignments: list[str]) -> None:
    from importlib.util import find_spec

    from saei.config.yaml import parse_value
    from saei.errors import ConfigError, shown

    if find_spec("trl") is None:
        raise ConfigError("--engine trl needs TRL.", reason="It is not installed.", remedy="pip install 'saei[trl]'")
    extra: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not name or not equals:
            raise ConfigError(
                "--trl takes NAME=VALUE.",
                reason=f"Got '{shown(assignment)}'.",
                remedy="For example --trl use_vllm=true.",
            )
        extra[name] = parse_value(value, f"--trl {name}")
    with loading(config):
        from saei.integrations.trl.run import TRLRun

        run = TRLRun(config, extra)
    _say(f"Done: {run.train()}")


def _say(text: str) -> None:
    if first_process():
        say(text, error=True)


def _say_how_to_go_on(reason: str, folder: Path) -> None:
    from saei.engine import checkpoint

    checkpoints = checkpoint.complete_in(folder / "checkpoints")
    newest = (
        f"is of step {checkpoint.step_of(checkpoints[-1])}" if checkpoints else "would be its first: it begins again"
    )
    _say(f"{reason} The newest checkpoint {newest}.\nGo on:\n  saei train --resume {folder}")
