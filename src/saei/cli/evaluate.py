"""``saei eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saei.cli.options import (
    FLAG,
    NOT_EVALUATED,
    AsJson,
    Assignments,
    Plugins,
    Trust,
    model_path,
    policy_config,
    task_flags,
)
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.config.run import RunConfig, SamplingConfig
    from saei.evaluation.benchmark import Asked
    from saei.evaluation.robustness.run import RobustnessSettings

DRAWN = "How responses are drawn"
KEPT = "An evaluation that is kept"
HARM = "Other pictures"

OF_COMPARE = ("sides", "compare", "output", "as_json")
"""All that --compare looks at."""

OF_ROBUST = ("radius", "base")
OF_KEPT = ("batch",)


def note(text: str) -> None:
    """Say something that is no result."""
    say(text, error=True)


def evaluate(
    ctx: typer.Context,
    sides: Annotated[list[str] | None, typer.Argument(metavar="FOLDER", help="For --compare.")] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="builtin, a run's folder, a checkpoint, a model folder, or a hub id.")
    ] = "builtin",
    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set or task to be scored on, as a whole, greedily.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Task where no --benchmark is named; by default the run's own, else bars."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The data: a file, a folder, or a hub id.")] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="First examples; by default all, of a task without end 128.")
    ] = None,
    responses: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="To each; by default 1, of a quick look that is not greedy 8.",
            rich_help_panel=DRAWN,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="T", help="0 is greedy, the default of one response, else 1.", rich_help_panel=DRAWN
        ),
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, metavar="P", help="Likeliest tokens that sum up to P.", rich_help_panel=DRAWN),
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the N likeliest tokens.", rich_help_panel=DRAWN)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the draws.", rich_help_panel=DRAWN)] = 0,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Drawn together.", rich_help_panel=DRAWN)] = 64,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of the data, in its own words.", rich_help_panel=KEPT)
    ] = None,
    pass_at: Annotated[
        str | None,
        typer.Option(metavar="K,K,...", help="pass@k; by default 1, 2, 4, ... up to n/2.", rich_help_panel=KEPT),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="By default below runs/eval.", rich_help_panel=KEPT)
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", metavar=FLAG, help="Compare kept evaluations with the first FOLDER.", rich_help_panel=KEPT
        ),
    ] = False,
    robust: Annotated[
        bool,
        typer.Option("--robust", metavar=FLAG, help="Also on noisy and on attacked pictures.", rich_help_panel=HARM),
    ] = False,
    radius: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...",
            help="Largest changes of a pixel value, of the range [0, 1]; by default 2, 4 and 8 of 255.",
            rich_help_panel=HARM,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Attack this model, too: the same pictures for every policy.", rich_help_panel=HARM
        ),
    ] = None,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure a policy on held-out examples, clean view.

    With --benchmark (or --output, --split, --pass-at, --robust) every answer is kept: the command goes on if stopped.

    Else it is a quick look: accuracy and how varied answers are, nothing written.
    """
    kept = robust or any(option is not None for option in (benchmark, split, pass_at, output))
    _check(ctx, "compare" if compare or sides else "kept" if kept else "look", robust=robust)
    if compare or sides:
        from saei.cli.compare import compare_sides

        compare_sides(sides or [], asked=compare, output=output, as_json=as_json)
        return
    drawn: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    if not kept:
        from saei.config.overrides import nested
        from saei.evaluation.benchmark import check_draws

        layers = [nested(path, value) for path, value in task_flags(task, data).items() if value is not None]
        config = policy_config(model, layers, set_ or [], plugin or [], leave_out=NOT_EVALUATED, trust=trust)
        drawn["temperature"] = 1.0 if temperature is None else temperature
        n = responses or (8 if drawn["temperature"] else 1)
        check_draws(n, drawn["temperature"])
        _check_nucleus(drawn)
        _look(config, drawn, examples or 128, n, seed, as_json)
        return

    from saei.cli.benchmark import benchmark_config

    config = benchmark_config(
        model,
        benchmark,
        task=task,
        data=data,
        split=split,
        assignments=set_ or [],
        plugins=plugin or [],
        trust=trust,
    )
    n = responses or 1
    drawn["temperature"] = float(n > 1) if temperature is None else temperature
    _check_nucleus(drawn)
    robustness = _robustness(radius, base) if robust else None
    note(f"Loading {config.model.path} ...")
    from saei.evaluation.benchmark import Asked

    asked = Asked(examples, n, seed, batch, _numbers(pass_at), output)
    sampling = config.sampling.model_copy(update=drawn)
    try:
        if robustness is not None:
            _keep_robust(config, sampling, asked, robustness, as_json)
        else:
            _keep(config, sampling, asked, as_json)
    except KeyboardInterrupt:
        note("Stopped. Complete batches are kept; the same command goes on.")
        sys.exit(130)


def _check(ctx: typer.Context, mode: Literal["compare", "kept", "look"], *, robust: bool) -> None:
    """Refuse what was given and would not be looked at.

    Raises:
        ConfigError: Naming the option and what it belongs to.
    """
    from saei.errors import ConfigError

    # Not every release of typer has click's own enumeration of sources; its names are the same.
    given = [name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    for name in given:
        option = {"set_": "--set"}.get(name, "--" + name.replace("_", "-"))
        got = f"Got {option} {ctx.params[name]}."
        if mode == "compare":
            if name not in OF_COMPARE and ctx.params["compare"]:
                raise ConfigError("--compare reads what is kept.", reason=got, remedy=f"Leave {option} out.")
        elif name in OF_ROBUST and not robust:
            raise ConfigError(f"{option} belongs to --robust.", reason=got, remedy="Add --robust.")
        elif name in OF_KEPT and mode == "look":
            raise ConfigError(f"{option} belongs to an evaluation that is kept.", reason=got, remedy="Add --output.")
    if "benchmark" in given and "task" in given and mode == "kept":
        raise ConfigError(
            "--benchmark names the task.", reason=f"Got --task {ctx.params['task']}, too.", remedy="Leave one out."
        )


def _check_nucleus(drawn: Mapping[str, Any]) -> None:
    """Refuse --top-p and --top-k of greedy answers, which they leave as they are.

    Raises:
        ConfigError: If one was given.
    """
    from saei.errors import ConfigError

    for name, value in (("--top-p", drawn["top_p"] if drawn["top_p"] < 1 else None), ("--top-k", drawn["top_k"])):
        if value is not None and not drawn["temperature"]:
            raise ConfigError(
                f"{name} restricts what is drawn, and greedy decoding draws nothing.",
                reason=f"{name} is {value}, the temperature 0.",
                remedy="Give --temperature 1, or leave it out.",
            )


def _keep(config: RunConfig, sampling: SamplingConfig, asked: Asked, as_json: bool) -> None:
    from saei.cli.result import show_result
    from saei.evaluation.benchmark import run_benchmark
    from saei.runtime.progress import progress

    with progress("Answered") as on_progress:
        folder = run_benchmark(config, sampling, asked, on_progress=on_progress, note=note)
    if as_json:
        print(json.dumps(folder.result(), indent=2))
    else:
        show_result(folder.path, folder.result())


def _robustness(radius: str | None, base: str | None) -> RobustnessSettings:
    """Return what --radius and --base ask for; a run as base is its newest checkpoint."""
    from saei.evaluation.robustness.run import RobustnessSettings

    path = None if base is None else model_path(base)
    return RobustnessSettings(base=path) if radius is None else RobustnessSettings(_fractions(radius), path)


def _keep_robust(
    config: RunConfig, sampling: SamplingConfig, asked: Asked, robustness: RobustnessSettings, as_json: bool
) -> None:
    from saei.cli.result import show_robust
    from saei.evaluation.robustness.run import run_robust
    from saei.runtime.progress import progress

    with progress("Answered") as on_progress:
        found = run_robust(config, sampling, asked, robustness, on_progress=on_progress, note=note)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
    else:
        show_robust(found)


def _look(config: RunConfig, drawn: Mapping[str, Any], examples: int, responses: int, seed: int, as_json: bool) -> None:
    note(f"Loading {config.model.path} ...")
    from saei.evaluation.measure import measure

    sampling = config.sampling.model_copy(update=drawn)
    measured, metrics = measure(config, sampling, examples=examples, responses=responses, seed=seed, note=note)
    report: dict[str, Any] = {
        "model": config.model.path,
        "task": config.task.model_dump(mode="json"),
        "split": "eval",
        "examples": measured,
        "responses": responses,
        **drawn,
        "seed": seed,
    }
    if as_json:
        print(json.dumps(report | {"metrics": metrics}, indent=2))
    else:
        _show(report, metrics)


def _numbers(text: str | None) -> tuple[int, ...]:
    """Return the numbers of ``1,2,4``.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        return tuple(int(word) for word in (text or "").replace(",", " ").split())
    except ValueError as error:
        from saei.errors import ConfigError

        raise ConfigError(
            "--pass-at takes whole numbers.", reason=f"Got '{text}'.", remedy="For example --pass-at 1,2,4,8."
        ) from error


def _fractions(text: str) -> tuple[Fraction, ...]:
    """Return the radii of ``2/255,4/255``.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        return tuple(Fraction(word) for word in text.replace(",", " ").split())
    except (ValueError, ZeroDivisionError) as error:
        from saei.errors import ConfigError

        raise ConfigError(
            "--radius takes fractions.", reason=f"Got '{text}'.", remedy="For example --radius 2/255,8/255."
        ) from error


def _show(report: dict[str, Any], metrics: dict[str, float]) -> None:
    from rich.table import Table

    limits = "".join(f", {name} {report[name]}" for name in ("top_p", "top_k") if report[name] not in (None, 1.0))
    console = screen()
    console.print(
        f"{report['model']} on {report['examples']} examples of {report['task']['type']} (eval split, clean view), "
        f"{report['responses']} responses each at temperature {report['temperature']}{limits}, seed {report['seed']}",
    )
    table = Table("measure", "value", box=None, padding=(0, 2, 0, 0))
    error = metrics["accuracy_se"]
    table.add_row("accuracy", f"{metrics['accuracy']:.3f} (standard error {error:.3f})")
    for name, value in metrics.items():
        if name not in ("accuracy", "accuracy_se"):
            table.add_row(name.replace("_", " "), f"{value:.3f}")
    console.print(table)
