"""``saei doctor``."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.options import FLAG, AsJson, Assignments, Plugins, Trust, policy_config
from saei.cli.reads import DOCTOR
from saei.console import say, screen

if TYPE_CHECKING:
    from rich.console import Console

    from saei.config.run import RunConfig
    from saei.diagnostics.diagnosis import Diagnosis
    from saei.diagnostics.sizing import Memory

STEP = "What a step is"
KNOWN = "Families"

MEANINGS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "AdamW's moments",
    "reference": "reference model",
    "activations": "activations or cache",
}
"""Names of the parts of memory."""


def doctor(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="builtin, a run's folder, a checkpoint, a hub id, or a folder with weights or without.",
        ),
    ] = "builtin",
    side: Annotated[
        int, typer.Option(min=1, metavar="N", help="Side of the square picture, in pixels.", rich_help_panel=STEP)
    ] = 448,
    prompts: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="training.prompts_per_step.", rich_help_panel=STEP)
    ] = None,
    responses: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Responses per prompt; half are adversarial.", rich_help_panel=STEP),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="sampling.max_new_tokens.", rich_help_panel=STEP)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="GB", help="Memory to plan for; by default what is free here."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", metavar=FLAG, help="Use random weights; the model's own are not read.")
    ] = False,
    families: Annotated[
        bool, typer.Option("--families", metavar=FLAG, help="Examine every known family.", rich_help_panel=KNOWN)
    ] = False,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", metavar=FLAG, help="Print the table of the documentation.", rich_help_panel=KNOWN),
    ] = False,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Examine a model before training: pixels, gradients, shared prefix, memory and time of a step, what to change."""
    if families:
        _families(markdown=markdown, as_json=as_json)
        return
    if markdown:
        from saei.errors import ConfigError

        raise ConfigError(
            "--markdown is for the table of families.",
            reason="--families was not given.",
            remedy="Add --families, or take --json for one model.",
        )
    flags = [
        {section: {name: value}}
        for section, name, value in (
            ("training", "prompts_per_step", prompts),
            ("sampling", "max_new_tokens", tokens),
        )
        if value is not None
    ]
    config = policy_config(model, flags, set_ or [], plugin or [], reads=DOCTOR, trust=trust)
    config = _with_responses(config, responses)
    from saei.diagnostics.doctor import diagnose
    from saei.diagnostics.sizing import GB

    diagnosis = diagnose(
        config,
        side=side,
        random_weights=random_weights,
        memory=None if memory is None else round(memory * GB),
        on_progress=lambda text: say(f"{text} ...", error=True),
    )
    print(json.dumps(diagnosis.as_json(), indent=2)) if as_json else _show(diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(2)


def _with_responses(config: RunConfig, responses: int | None) -> RunConfig:
    """Return the configuration with another number of responses, shared out as they are."""
    from saei.config.overrides import assigned

    if responses is None:
        return config
    return assigned(config, config.sampler.build().plan().settings_for(responses))


def _show(diagnosis: Diagnosis) -> None:
    from rich.table import Table

    from saei.diagnostics.sizing import gigabytes

    console = screen()
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(diagnosis):
        facts.add_row(name, value)
    console.print(facts)
    if diagnosis.memory is not None:
        _show_memory(console, diagnosis, diagnosis.memory)
    if diagnosis.remedies:
        table = Table("what takes less, each on top of those above", "then GB", box=None, padding=(0, 2, 0, 0))
        for remedy in diagnosis.remedies:
            fits = " fits" if diagnosis.available is not None and remedy.total <= diagnosis.available else ""
            options = " ".join(f"--set {shlex.quote(assignment)}" for assignment in remedy.assignments)
            table.add_row(options, f"{gigabytes(remedy.total)}{fits}")
        console.print("", table, sep="\n")
    for number, finding in enumerate(sorted(diagnosis.findings, key=lambda finding: not finding.problem), 1):
        text = " ".join(part for part in (finding.rule, _plainly(finding.reason), finding.remedy) if part)
        console.print(f"\n{number}. {'Problem: ' if finding.problem else ''}{text}")
    if not diagnosis.findings:
        console.print("\nNothing to change.")


def _plainly(reason: str) -> str:
    """Return a reason without the error behind it: a cache's missing attribute means nothing to a reader."""
    return re.sub(r"its cache cannot be handed on \(.*\)", "its cache cannot be repeated", reason)


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Return the lines at the top."""
    weights = "random weights" if diagnosis.random else "its own weights"
    facts = [("model", diagnosis.model)]
    if diagnosis.parameters is not None:
        share = "all" if diagnosis.trained == diagnosis.parameters else f"{diagnosis.trained:,}"
        facts.append(("parameters", f"{diagnosis.parameters:,} of {diagnosis.dtype}, {share} trained"))
    facts.append(
        ("device", diagnosis.device + (f", {diagnosis.threads} thread(s)" if diagnosis.device == "cpu" else ""))
    )
    examination = diagnosis.examination
    if examination is not None:
        copy = (
            f"a copy with {diagnosis.examined} of its {diagnosis.layers} language layers"
            if diagnosis.examined
            else "the model"
        )
        facts += [
            ("looked at", f"{copy}, {weights}"),
            ("pixels", f"{examination.layout.replace('`', '')}, {'rounded' if examination.rounds else 'exact'}"),
            ("canvas", f"the {examination.canvas} picture"),
            ("gradient", f"off by {examination.gradient:.0e} from finite differences in {diagnosis.precision}"),
            (
                "prefix",
                "one for all responses" + (f", off by {examination.deviation:.0e}" if examination.deviation else "")
                if examination.not_shared is None
                else "one per response, the slower way",
            ),
        ]
    if diagnosis.sizes:
        size = diagnosis.sizes
        facts += [
            ("a step", f"{size['prompts']} prompts x {size['responses']} responses x {size['tokens']} tokens"),
            ("a prompt", f"{size['prompt_tokens']} tokens, {size['image_tokens']} of a picture of {size['side']} px"),
        ]
    return facts


def _show_memory(console: Console, diagnosis: Diagnosis, memory: Memory) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from saei.diagnostics.sizing import gigabytes

    table = Table("memory of a step", "GB", "", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = "right"
    for name, size in asdict(memory).items():
        if size:
            how = "counted by a pass of shapes" if name == "activations" else "by shapes and types"
            table.add_row(MEANINGS[name], gigabytes(size), how)
    free = "" if diagnosis.available is None else f"of {gigabytes(diagnosis.available)}"
    table.add_row("together", gigabytes(memory.total), free)
    if diagnosis.peak is not None:
        whose = "of the process" if diagnosis.device == "cpu" else "of tensors"
        table.add_row("measured", gigabytes(diagnosis.peak), f"peak {whose} in two steps")
    console.print("", table, sep="\n")
    if diagnosis.seconds is not None:
        console.print(f"\nA step takes {diagnosis.seconds:.2f} s.")
    else:
        console.print("\nThe time of a step was not measured: the model in training does not fit here.")


def _families(*, markdown: bool, as_json: bool) -> None:
    from saei.diagnostics.tiny import examine_families, family_table
    from saei.diagnostics.zoo import FAMILIES

    say("Examining tiny models of every family ...", error=True)
    if markdown:
        say(family_table())
        return
    if as_json:
        from dataclasses import asdict

        reports: dict[str, Any] = {
            name: examination and asdict(examination) for name, examination in examine_families()
        }
        print(json.dumps(reports, indent=2))
        return
    from rich.table import Table

    table = Table("family", "pixels", "canvas", "way", "gradient", "shared", "off by", box=None, padding=(0, 1, 0, 0))
    reasons = []
    for name, examination in examine_families():
        if examination is None:
            table.add_row(name, "not examined")
            reasons.append(f"{name} needs {', '.join(FAMILIES[name].missing)}.")
            continue
        layout, canvas, way, gradient, _, deviation = examination.cells
        shape = layout.partition(" + ")[0].strip("`")
        table.add_row(name, shape, canvas, way, gradient, "no" if examination.not_shared else "yes", deviation)
        if examination.not_shared:
            reasons.append(f"{name} computes a prompt anew for each response: {_plainly(examination.not_shared)}.")
    console = screen()
    console.print(table)
    for reason in reasons:
        console.print(f"\n{reason}")
