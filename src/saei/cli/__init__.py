"""The command line; torch and transformers load only when a command needs them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from saei import __version__
from saei.cli import (
    ask,
    bench,
    build_tiny,
    check,
    data,
    demo,
    doctor,
    evaluate,
    export,
    floor,
    init,
    inspect_,
    list_,
    new,
    plot,
    runs,
    schema,
    show,
    study,
    train,
    view,
)
from saei.cli.options import FLAG, examples
from saei.console import say
from saei.errors import SaeiError, out_of_memory, shown


class Command(TyperCommand):
    """A command; its help shows ``--help`` without ``<bool>``, since a flag takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands; its help shows ``--help`` and typer's completion flags without ``<bool>``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = FLAG
    return parameters


app = typer.Typer(
    name="saei",
    cls=Group,
    help="Keep vision-language policies exploring while they learn by reinforcement.",
    epilog=examples("saei demo", "saei train --selector middle-third --attack pgd", "saei show pgd"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(
    "init",
    cls=Command,
    epilog=examples("saei init", "saei init geometry3k-7b-saei-lora", "saei init chartqa-3b-saei my.yaml"),
)(init.init)
app.command(
    "train",
    cls=Command,
    epilog=examples(
        "saei train --sampler clean --steps 40",
        "saei train --selector top-k --attack fgsm --set selector.share=1/5 --set attack.step=4/255",
        "saei train --model Qwen/Qwen2.5-VL-3B-Instruct --data ./my-data --config my.yaml",
        "saei train --resume runs/bars-mixed-20260101-120000",
    ),
)(train.train)
app.command(
    "eval",
    cls=Command,
    epilog=examples(
        "saei eval --model runs/bars-mixed-20260101-120000",
        "saei eval --task digits --temperature 0 --responses 1 --json",
        "saei eval --benchmark mathvista --model Qwen/Qwen2.5-VL-3B-Instruct",
        "saei eval --benchmark bars --responses 128 --pass-at 1,2,4,8,16,32,64",
        'saei eval --compare "runs/eval/grpo-*" "runs/eval/saei-*"',
    ),
)(evaluate.evaluate)
app.command("export", cls=Command, epilog=examples("saei export runs/bars-mixed-20260101-120000 --merge -o my-model"))(
    export.export
)
app.command(
    "ask",
    cls=Command,
    epilog=examples(
        'saei ask runs/bars-mixed-20260101-120000 chart.png "What is red + blue?" -k 4',
        'saei ask Qwen/Qwen2.5-VL-3B-Instruct photo.jpg "How many cups?" --temperature 0 --json',
    ),
)(ask.ask)
app.command(
    "inspect",
    cls=Command,
    epilog=examples(
        'saei inspect chart.png "What is red + blue?"',
        'saei inspect chart.png "What is red + blue?" --attack fgsm --selector top-k -o look.html -o look.png',
    ),
)(inspect_.inspect)
app.command(
    "runs",
    cls=Command,
    epilog=examples(
        "saei runs --where state=finished --sort accuracy --reverse",
        "saei runs runs/first runs/second --compare",
        "saei runs --delete old-checkpoints runs/first",
    ),
)(runs.runs)
app.command(
    "plot",
    cls=Command,
    epilog=examples(
        "saei plot runs/lock-in -o curves.png -o curves.csv",
        "saei plot runs --where task=bars --by-base",
        "saei plot components-lock-in --by arm",
    ),
)(plot.plot)
app.command("list", cls=Command, epilog=examples("saei list attack", "saei list --check"))(list_.list_strategies)
app.command("show", cls=Command, epilog=examples("saei show pgd", "saei show training"))(show.show)
app.command(
    "new",
    cls=Command,
    epilog=examples("saei new selector lab/every-other", "saei new attack sharp --into my-attack"),
)(new.new)
app.command(
    "check",
    cls=Command,
    epilog=examples("saei check ./lab", "saei check ./mine.py", "saei check lab --set lab/overlong.longest=40"),
)(check.check)
app.command(
    "view",
    cls=Command,
    epilog=examples(
        "saei view runs/first",
        "saei view runs/plain runs/first -o both.html",
        "saei view runs/eval/first",
        "saei view components-lock-in",
    ),
)(view.view)
app.command("schema", cls=Command, epilog=examples("saei schema --output saei.schema.json"))(schema.schema)
app.command("demo", cls=Command, epilog=examples("saei demo --steps 40 --seed 1"))(demo.demo)
app.command(
    "bench",
    cls=Command,
    epilog=examples("saei bench", "saei bench --model runs/bars-mixed-20260101-120000 --rounds 3 --json"),
)(bench.bench)
app.command(
    "doctor",
    cls=Command,
    epilog=examples(
        "saei doctor Qwen/Qwen2.5-VL-3B-Instruct --prompts 4 --tokens 512 --set model.lora.rank=8",
        "saei doctor my-model --memory 80 --json",
        "saei doctor --families",
    ),
)(doctor.doctor)
app.command("build-tiny", cls=Command, epilog=examples("saei build-tiny my-model --seed 1"))(build_tiny.build_tiny)

data_app = typer.Typer(cls=Group, no_args_is_help=True, help="Check data before training on it.")
data_app.command(
    "preview",
    cls=Command,
    epilog=examples("saei data preview --data my_photos", "saei data preview --task mathvista --rows 5 --look 1000"),
)(data.preview)
data_app.command("check", cls=Command, epilog=examples("saei data check --data my_photos --list"))(data.check)
data_app.command(
    "floor",
    cls=Command,
    epilog=examples("saei data floor --task bars", "saei data floor --task maze --set task.min_distance=4"),
)(floor.floor)
app.add_typer(data_app, name="data")

study_app = typer.Typer(cls=Group, no_args_is_help=True, help="Put a question to the test: arms on bases, with seeds.")
study_app.command("list", cls=Command, epilog=examples("saei study list"))(study.list_)
study_app.command("show", cls=Command, epilog=examples("saei study show collapse", "saei study show ./mine.yaml"))(
    study.show
)
study_app.command(
    "page", cls=Command, epilog=examples("saei study page collapse", "saei study page ./mine.yaml --keep ./kept/mine")
)(study.page)
study_app.command("headlines", cls=Command, epilog=examples("saei study headlines"))(study.headlines)
study_app.command("new", cls=Command, epilog=examples("saei study new mine", "saei study new mine.yaml"))(study.new)
study_app.command(
    "freeze", cls=Command, epilog=examples("saei study freeze collapse", "saei study freeze ./mine.yaml")
)(study.freeze)
study_app.command(
    "run",
    cls=Command,
    epilog=examples(
        "saei study run collapse --quick",
        "saei study run components-lock-in --dry-run",
        "saei study run components-lock-in --jobs 8 --devices 0,1,2,3,4,5,6,7",
        "saei study run components-lock-in --list-jobs",
    ),
)(study.run)
app.add_typer(study_app, name="study")


def _version(given: bool) -> None:
    if given:
        say(f"saei {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", metavar=FLAG, help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error that the user can fix is one message and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except SaeiError as error:
        _leave(error)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        _leave(
            SaeiError(
                "What a command does at once has to fit into memory.",
                reason=f"{type(error).__name__}: {shown(str(error), 200)}",
                remedy="`saei doctor MODEL` says what a step takes and what makes it smaller: model.max_pixels, "
                "training.micro_groups, sampler.intervention.micro_groups, model.gradient_checkpointing, "
                "model.lora.rank, sampling.max_new_tokens. A run that had checkpoints goes on from its last one.",
            )
        )


def _leave(error: SaeiError) -> NoReturn:
    for part in (error.rule, error.reason, error.remedy):
        if part:
            say(part, error=True)
    sys.exit(2)
