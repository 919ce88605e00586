"""The command line; torch and transformers load only when a command needs them."""

from __future__ import annotations

import os
import sys

import typer

from saei.cli import build_tiny, demo, evaluate, list_, show, train
from saei.errors import SaeiError

app = typer.Typer(
    name="saei",
    help="Keep vision-language policies exploring while they learn by reinforcement.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("list")(list_.list_strategies)
app.command("show")(show.show)
app.command("build-tiny")(build_tiny.build_tiny)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line; what a user can mend is one message and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except SaeiError as error:
        for part in (error.rule, error.reason, error.remedy):
            if part:
                print(part, file=sys.stderr)
        sys.exit(2)
