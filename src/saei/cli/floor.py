"""``saei data floor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from saei.cli.options import NOT_EVALUATED, AsJson, Assignments, Plugins, Trust, policy_config, task_flags
from saei.cli.reads import FLOOR
from saei.console import screen


def floor(
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="Task, such as maze.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="Your data: a file, a folder, or a hub id.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, metavar="N", help="Examples that are guessed at.")] = 128,
    training: Annotated[int, typer.Option(min=1, metavar="N", help="Training examples whose answers are known.")] = 512,
    pass_at: Annotated[str, typer.Option("--pass-at", metavar="K,K", help="Numbers of guesses.")] = "1,4,16,64",
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Print how far guessing gets: pass@k of guessers who solve nothing, on the examples of evaluation."""
    from saei.cli.evaluate_options import whole_numbers
    from saei.config.overrides import nested
    from saei.errors import ConfigError

    ks = tuple(sorted(set(whole_numbers(pass_at))))
    if not ks or ks[0] < 1:
        raise ConfigError("--pass-at takes numbers from 1 on.", reason=f"Got '{pass_at}'.", remedy="For example 1,16.")
    flags = [nested(path, value) for path, value in task_flags(task, data).items() if value is not None]
    config = policy_config(
        "builtin", flags, set_ or [], plugin or [], reads=FLOOR, leave_out=NOT_EVALUATED, trust=trust
    )
    built = config.task.build()
    from saei.evaluation.floors import guess_floors

    floors = guess_floors(built, ks=ks, examples=examples, training=training, split=built.splits()[-1])
    if as_json:
        report = {"task": config.task.model_dump(mode="json"), "floors": [asdict(each) for each in floors]}
        print(json.dumps(report, indent=2))
        return
    from rich.table import Table

    table = Table("pass@k of a guesser", *map(str, ks), box=None, padding=(0, 2, 0, 0))
    for each in floors:
        table.add_row(each.guesser, *(f"{each.pass_at[k]:.3f}" for k in ks))
    screen().print(table)
