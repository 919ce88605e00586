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
        int, typer.Option(min=1, metavar="N", help="Side of the square picture, in pixels.", rich_help_panel=SIZES)
    ] = 256,
    prompts: Annotated[
        int, typer.Option(min=1, metavar="N", help="Prompts per training step.", rich_help_panel=SIZES)
    ] = 2,
    responses: Annotated[
        int, typer.Option(min=2, metavar="N", help="Responses per prompt; half are adversarial.", rich_help_panel=SIZES)
    ] = 12,
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens per response.", rich_help_panel=SIZES)] = 64,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds that medians are taken over.")] = 5,
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

    result = measure(config, Sizes(side, prompts, responses, tokens, rounds))
    print(json.dumps(result, indent=2)) if as_json else _show(result)


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    from saei.diagnostics.bench import RATIOS

    console = screen()
    console.print(
        f"{result['model']}: {result['parameters']:,} parameters, {result['dtype']}, on {result['device']} with "
        f"{result['threads']} thread(s); {result['prompt_tokens']} prompt tokens, {result['image_tokens']} of them the "
        f"image's; {result['responses']} responses of {result['tokens']} tokens; {result['prompts']} prompts a step; "
        f"{'CPU' if result['device'] == 'cpu' else 'wall'} time, medians of {result['rounds']} rounds",
    )
    ways = Table("way", "ms", "peak MB", box=None, padding=(0, 2, 0, 0))
    for name, seconds in result["seconds"].items():
        peak = result["peak_bytes"][name]
        ways.add_row(name, f"{1000 * seconds:.0f}", "" if peak is None else f"{peak / 1e6:.0f}")
    ratios = Table("ratio", "measured", box=None, padding=(0, 2, 0, 0))
    for name, value in result["ratios"].items():
        ratios.add_row(" / ".join(RATIOS[name]), f"{value:.2f}")
    console.print(ways, ratios, sep="\n\n")
