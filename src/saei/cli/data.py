"""``saei data``: checking data before training on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saei.cli.loading import loading
from saei.cli.options import FLAG, AsJson, Assignments, Plugins, Trust, task_flags
from saei.console import say
from saei.errors import printable, shown

if TYPE_CHECKING:
    from saei.config.run import RunConfig
    from saei.data.base import Split, Task
    from saei.intake.preview import Preview
    from saei.intake.scan import ScanResult
    from saei.policy import Policy

Model = Annotated[
    str, typer.Option(metavar="MODEL", help="Whose prompt is shown: builtin, a run, a folder, or a hub id.")
]
TaskName = Annotated[str | None, typer.Option("--task", metavar="NAME", help="Task, such as geometry3k.")]
Data = Annotated[str | None, typer.Option("--data", metavar="PATH", help="Your data: a file, a folder, or a hub id.")]


def preview(
    model: Model = "builtin",
    task: TaskName = None,
    data: Data = None,
    split: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="train or eval; by default train, where there is one.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Examples that are shown.")] = 3,
    look: Annotated[int, typer.Option(min=1, metavar="N", help="Examples that are counted.")] = 64,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Show examples as the model gets them: images, prompt and tokens, and how many cannot be used."""
    from saei.intake.preview import preview_examples

    config = _config(model, task, data, set_, plugin, trust)
    built: Task = config.task.build()
    chosen = _split(split, built)
    size = built.size(chosen)  # before the model loads: a mapping that cannot work is refused at once
    reward = config.reward.build()
    policy = _policy(config)
    indices = range(look if size is None else min(look, size))
    previews, scan_result = preview_examples(built, policy, chosen, reward=reward, indices=indices, count=rows)
    scan_result.check()
    if as_json:
        report = {
            "split": chosen,
            "size": size,
            "notes": list(built.notes()),
            "shown": [asdict(each) for each in previews],
            "examples": [asdict(each) for each in scan_result.reports],
        }
        print(json.dumps(report, indent=2, default=str))
        return
    for note in built.notes():
        say(note)
    for preview in previews:
        _show(preview)
    _count(scan_result, size)


def check(
    model: Model = "builtin",
    task: TaskName = None,
    data: Data = None,
    every: Annotated[bool, typer.Option("--list", metavar=FLAG, help="Name each example that is left out.")] = False,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Check every example, in parallel; the result is cached, also for runs with training.sift=true."""
    from saei.errors import ConfigError
    from saei.intake.scan import CACHE, ScanResult, scan
    from saei.runtime.progress import progress

    config = _config(model, task, data, set_, plugin, trust)
    built: Task = config.task.build()
    sizes = {split: built.size(split) for split in built.splits()}
    if None in sizes.values():
        raise ConfigError(
            "saei data check takes a task with an end.",
            reason=f"'{built.name()}' makes its examples.",
            remedy="Use saei data preview.",
        )
    reward = config.reward.build()
    policy = _policy(config)
    results = []
    for split in sizes:
        with progress(f"Looking at {split}") as on_progress:
            results.append(
                ScanResult(split, scan(built, policy, split, reward=reward, cache=CACHE, on_progress=on_progress))
            )
    if as_json:
        print(json.dumps({result.split: [asdict(row) for row in result.reports] for result in results}, indent=2))
        return
    for note in built.notes():
        say(note)
    for result in results:
        _count(result, sizes[result.split])
        for row in result.dropped if every else []:
            say(f"  {result.split} example {row.index}: {row.report}")
    for result in results:
        result.check()


def _config(
    model: str,
    task: str | None,
    data: str | None,
    assignments: list[str] | None,
    plugins: list[str] | None,
    trust: bool,
) -> RunConfig:
    from saei.cli.options import NOT_EVALUATED, policy_config
    from saei.cli.reads import DATA
    from saei.config.overrides import nested

    flags = [nested(path, value) for path, value in task_flags(task, data).items() if value is not None]
    return policy_config(
        model, flags, assignments or [], plugins or [], reads=DATA, leave_out=NOT_EVALUATED, trust=trust
    )


def _policy(config: RunConfig) -> Policy:
    with loading(config):
        from saei.policy import Policy

        return Policy.load(config.model, config.template.build(), sampling=config.sampling, entropy=config.entropy)


def _split(name: str | None, task: Task) -> Split:
    from saei.errors import ConfigError

    if name is None:
        return task.splits()[0]
    known: dict[str, Split] = {"train": "train", "eval": "eval"}
    if name in known:
        return known[name]
    raise ConfigError("--split is train or eval.", reason=f"Got '{name}'.", remedy="task.splits maps them to yours.")


def _show(preview: Preview) -> None:
    say(f"\n{shown(preview.id)}: {preview.tokens} prompt tokens, answer '{shown(preview.answer)}'")
    for (width, height), (model_width, model_height) in preview.images:
        say(f"  image {width} x {height}, seen as {model_width} x {model_height}")
    if preview.meta:
        say("  " + ", ".join(f"{shown(name)} {shown(repr(value))}" for name, value in preview.meta.items()))
    say("\n".join(f"  | {line}" for line in printable(preview.prompt).split("\n")))


def _count(result: ScanResult, size: int | None) -> None:
    total = "" if size is None or size == len(result.reports) else f" of {size}"
    say(f"\nLooked at {len(result.reports)}{total} {result.split} examples.")
    lengths = sorted(report.tokens for report in result.reports if report.tokens is not None)
    if lengths:
        at = {name: lengths[int(share * (len(lengths) - 1))] for name, share in (("median", 0.5), ("90 %", 0.9))}
        say(f"  prompt tokens: median {at['median']}, 90 % up to {at['90 %']}, longest {lengths[-1]}")
    say(f"  left out: {len(result.dropped)}, of these too long {sum(report.too_long for report in result.dropped)}")
    for rule, count in result.rules().most_common():
        say(f"    {count}: {rule}")
