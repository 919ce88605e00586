"""``saei bench``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from saei.cli.options import AsJson, Assignments, Plugins, Trust, policy_config
from saei.console import say, screen

SIZES = "Sizes"


def bench(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="builtin, a run's folder, a checkpoint, a model folder, or a hub id.")
    ] = "builtin",
    side: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of the square picture, in pixels.", rich_help_panel=SIZES)
    ] = 256,
    prompts: Annotated[int, typer.Option(min=1, metavar="N", help="Of a training step.", rich_help_panel=SIZES)] = 2,
    responses: Annotated[
        int, typer.Option(min=2, metavar="N", help="To each; half are adversarial.", rich_help_panel=SIZES)
    ] = 12,
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Of each response.", rich_help_panel=SIZES)] = 64,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Of which medians are taken.")] = 5,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure what attack, shared prefix and whole steps cost on a model, as ratios within one run."""
    config = policy_config(model, [], set_ or [], plugin or [], trust=trust)
    say(f"Loading {config.model.path} ...", error=True)
    from saei.diagnostics.bench import Sizes
    from saei.diagnostics.bench import bench as measure

    found = measure(config, Sizes(side, prompts, responses, tokens, rounds))
    print(json.dumps(found, indent=2)) if as_json else _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    from saei.diagnostics.bench import RATIOS

    console = screen()
    console.print(
        f"{found['model']}: {found['parameters']:,} parameters, {found['dtype']}, on {found['device']} with "
        f"{found['threads']} thread(s); {found['prompt_tokens']} prompt tokens, {found['image_tokens']} of them the "
        f"image's; {found['responses']} responses of {found['tokens']} tokens; a step has {found['prompts']} prompts; "
        f"{'CPU' if found['device'] == 'cpu' else 'wall'} time, medians of {found['rounds']} rounds",
    )
    ways = Table("way", "ms", "peak MB", box=None, padding=(0, 2, 0, 0))
    for name, seconds in found["seconds"].items():
        peak = found["peak_bytes"][name]
        ways.add_row(name, f"{1000 * seconds:.0f}", "" if peak is None else f"{peak / 1e6:.0f}")
    ratios = Table("ratio", "measured", box=None, padding=(0, 2, 0, 0))
    for name, value in found["ratios"].items():
        ratios.add_row(" / ".join(RATIOS[name]), f"{value:.2f}")
    console.print(ways, ratios, sep="\n\n")
