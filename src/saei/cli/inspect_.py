"""``saei inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saei.cli.one_question import Further, Image, Question, Responses, Seed, Template, configuration, load, pictures
from saei.cli.options import AsJson, Assignments, Plugins, Trust, belongs_to_run
from saei.cli.reads import INSPECT
from saei.console import say, screen

if TYPE_CHECKING:
    from saei.config.run import RunConfig

SUFFIXES = (".png", ".svg", ".html")


def inspect(
    image: Image,
    question: Question,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A run, a model folder, a hub id or builtin.")
    ] = "builtin",
    attack: Annotated[str | None, typer.Option(metavar="NAME", help="How the picture is moved.")] = None,
    selector: Annotated[str | None, typer.Option(metavar="NAME", help="Which tokens count.")] = None,
    criterion: Annotated[str | None, typer.Option(metavar="NAME", help="What is raised there.")] = None,
    further: Further = None,
    responses: Responses = 6,
    seed: Seed = 0,
    template: Template = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write a .png, .svg or .html; repeatable."),
    ] = None,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Look at what an intervention does to one picture: the tokens it aims at, what changes, what is said then.

    Nothing is trained. A run is shown with its own intervention, any other model with the default one.
    """
    from saei.config.overrides import nested

    files = output or []
    _check(files)
    names = {"attack": attack, "selector": selector, "criterion": criterion}
    flags = [nested(f"{slot}.type", name) for slot, name in names.items() if name is not None]
    config = configuration(
        model,
        flags,
        set_ or [],
        plugin or [],
        template=template,
        trust=trust,
        reads=INSPECT,
        leave_out=() if _has_intervention(model) else ("sampler",),
    )
    slots = config.sampler.intervention.model_dump(mode="json")  # type: ignore[attr-defined]  # `mixed` has one
    # What looks at grades or at other responses has no part in one attack.
    slots |= {"gate": {"type": "always"}, "guard": {"type": "none"}}
    policy = load(config)
    from saei.report.inspection import inspect as look

    inspection = look(
        policy,
        pictures(image, further),
        question,
        responses=responses,
        seed=seed,
        slots=slots,
        settings=_settings(config, slots, responses, seed),
    )
    if as_json:
        print(json.dumps(inspection.plain(), indent=2))
    else:
        from saei.report.inspection_screen import show

        show(screen(), inspection)
    from saei.report.inspection_files import write
    from saei.runtime.files import disk_errors

    for file in files:
        with disk_errors("An inspection is written to a file.", file, "Free some space, or give another --output."):
            write(inspection, file)
    if files and not as_json:
        say("\nWritten: " + ", ".join(map(str, files)))


def _check(files: list[Path]) -> None:
    """Refuse what is no picture and no page, before a model is loaded."""
    from saei.errors import ConfigError

    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise ConfigError(
                "An inspection is written as a picture or a page.",
                reason=f"{file} ends in '{file.suffix}'.",
                remedy=f"End its name in one of {', '.join(SUFFIXES)}.",
            )


def _has_intervention(model: str) -> bool:
    """Return whether a model is a run's whose sampler has one intervention; others are shown the default one."""
    if not belongs_to_run(model):
        return False
    from saei.runtime.run_dir import RunDir

    folder = Path(model).expanduser().absolute()
    folder = folder if (folder / "config.yaml").is_file() else folder.parents[1]
    config, _ = RunDir(folder).read()
    sampler = config.get("sampler")
    if isinstance(sampler, dict) and "intervention" in sampler:
        return True
    say("The run's sampler has no single intervention, so the default one is shown.", error=True)
    return False


def _settings(config: RunConfig, slots: dict[str, Any], responses: int, seed: int) -> dict[str, str]:
    drawn = f"{responses} responses from each view at temperature {config.sampling.temperature:g}, seed {seed}"
    told = ("attack", "selector", "criterion", *(["control"] if slots.get("control") else []))
    return {"model": f"{config.model.path}, {drawn}", **{name: _strategy(slots[name]) for name in told}}


def _strategy(fields: dict[str, Any]) -> str:
    """Return a strategy's name and its fields, those that are not set left out."""
    others = (f"{name} {value}" for name, value in fields.items() if name != "type" and value not in (None, [], False))
    return ", ".join([str(fields["type"]), *others])
