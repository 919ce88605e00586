"""``saei eval``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.evaluate_options import check_options, check_truncation, fractions, whole_numbers
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
from saei.cli.reads import EVALUATION, QUICK_LOOK, ROBUSTNESS
from saei.console import say

if TYPE_CHECKING:
    from saei.config.run import RunConfig
    from saei.config.sections import SamplingConfig
    from saei.evaluation.benchmark import EvaluationRequest
    from saei.evaluation.robustness.run import RobustnessSettings

DECODING = "How responses are drawn"
SAVED = "An evaluation that is saved"
PERTURBED = "Other pictures"


def note(text: str) -> None:
    """Print a text that is no result on standard error."""
    say(text, error=True)


def evaluate(
    ctx: typer.Context,
    folders: Annotated[list[str] | None, typer.Argument(metavar="FOLDER", help="For --compare.")] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="builtin, a run's folder, a checkpoint, a model folder, or a hub id.")
    ] = "builtin",
    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set or task to score on; by default all of it, greedily.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Task, without --benchmark; by default the run's own, else bars."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The data: a file, a folder, or a hub id.")] = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of examples; by default all, or 128 of a generated task."),
    ] = None,
    responses: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Per example; by default 1, in a quick look that samples 8.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="T", help="0 is greedy, the default for one response; else 1.", rich_help_panel=DECODING
        ),
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            metavar="P",
            help="Likeliest tokens whose probabilities sum to P.",
            rich_help_panel=DECODING,
        ),
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the N likeliest tokens.", rich_help_panel=DECODING)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the draws.", rich_help_panel=DECODING)] = 0,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Drawn together.", rich_help_panel=DECODING)] = 64,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of the data, by its own name.", rich_help_panel=SAVED)
    ] = None,
    pass_at: Annotated[
        str | None,
        typer.Option(metavar="K,K,...", help="pass@k; by default 1, 2, 4, ... up to n/2.", rich_help_panel=SAVED),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="By default below runs/eval.", rich_help_panel=SAVED)
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", metavar=FLAG, help="Compare saved evaluations with the first FOLDER.", rich_help_panel=SAVED
        ),
    ] = False,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", metavar=FLAG, help="Also evaluate on noisy and attacked pictures.", rich_help_panel=PERTURBED
        ),
    ] = False,
    radius: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...",
            help="Largest changes of a pixel value in [0, 1]; by default 2/255, 4/255, 8/255.",
            rich_help_panel=PERTURBED,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Attack this model, too: the same pictures for every policy.",
            rich_help_panel=PERTURBED,
        ),
    ] = None,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure a policy on held-out examples, clean view.

    With --benchmark (or --output, --split, --pass-at, --robust) every answer is saved: the command goes on if stopped.

    Else it is a quick look: accuracy and how varied answers are, nothing written.
    """
    saved = robust or any(option is not None for option in (benchmark, split, pass_at, output))
    check_options(ctx, "compare" if compare or folders else "saved" if saved else "quick", robust=robust)
    if compare or folders:
        from saei.cli.compare import compare_evaluations

        compare_evaluations(folders or [], flag_given=compare, output=output, as_json=as_json)
        return
    decoding: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    if not saved:
        from saei.config.overrides import nested
        from saei.evaluation.benchmark import check_draws

        flags = [nested(path, value) for path, value in task_flags(task, data).items() if value is not None]
        config = policy_config(
            model, flags, set_ or [], plugin or [], reads=QUICK_LOOK, leave_out=NOT_EVALUATED, trust=trust
        )
        decoding["temperature"] = 1.0 if temperature is None else temperature
        n = responses or (8 if decoding["temperature"] else 1)
        check_draws(n, decoding["temperature"])
        check_truncation(decoding)
        note(f"Loading {config.model.path} ...")
        from saei.cli.quick_look import quick_look

        quick_look(config, decoding, examples=examples or 128, responses=n, seed=seed, note=note, as_json=as_json)
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
        reads=ROBUSTNESS if robust else EVALUATION,
        trust=trust,
    )
    n = responses or 1
    decoding["temperature"] = float(n > 1) if temperature is None else temperature
    check_truncation(decoding)
    robustness = _robustness(radius, base) if robust else None
    note(f"Loading {config.model.path} ...")
    from saei.evaluation.benchmark import EvaluationRequest

    request = EvaluationRequest(examples, n, seed, batch, whole_numbers(pass_at), output)
    sampling = config.sampling.model_copy(update=decoding)
    try:
        if robustness is not None:
            _evaluate_robust(config, sampling, request, robustness, as_json)
        else:
            _evaluate_benchmark(config, sampling, request, as_json)
    except KeyboardInterrupt:
        note("Stopped. Complete batches are saved; the same command goes on.")
        sys.exit(130)


def _evaluate_benchmark(config: RunConfig, sampling: SamplingConfig, request: EvaluationRequest, as_json: bool) -> None:
    from saei.cli.result import show_result
    from saei.evaluation.benchmark import run_benchmark
    from saei.runtime.progress import progress

    with progress("Answered") as on_progress:
        folder = run_benchmark(config, sampling, request, on_progress=on_progress, note=note)
    if as_json:
        print(json.dumps(folder.result(), indent=2))
    else:
        show_result(folder.path, folder.result())


def _robustness(radius: str | None, base: str | None) -> RobustnessSettings:
    """Return what --radius and --base ask for; a run as base is its newest checkpoint."""
    from saei.evaluation.robustness.run import RobustnessSettings

    path = None if base is None else model_path(base)
    return RobustnessSettings(base=path) if radius is None else RobustnessSettings(fractions(radius), path)


def _evaluate_robust(
    config: RunConfig,
    sampling: SamplingConfig,
    request: EvaluationRequest,
    robustness: RobustnessSettings,
    as_json: bool,
) -> None:
    from saei.cli.result import show_robust
    from saei.evaluation.robustness.run import run_robust
    from saei.runtime.progress import progress

    with progress("Answered") as on_progress:
        result = run_robust(config, sampling, request, robustness, on_progress=on_progress, note=note)
    if as_json:
        print(json.dumps(result, indent=2, default=str))
    else:
        show_robust(result)
