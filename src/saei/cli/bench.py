"""``saei bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from saei.cli.options import AsJson, Assignments, Plugins, Trust, policy_config
from saei.cli.reads import BENCH
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
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure its update alone, against plain GRPO's; --set adds weights, terms or an advantage.",
        ),
    ] = None,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure what attack, shared prefix and whole steps cost on a model, as ratios within one run."""
    flags: list[dict[str, Any]] = []
    if objective is not None:
        flags = [{"objective": {"type": objective}, "sampler": {"type": "clean"}}]
    config = policy_config(model, flags, set_ or [], plugin or [], reads=BENCH, trust=trust)
    say(f"Loading {config.model.path} ...", error=True)
    from saei.diagnostics.bench import RATIOS, Sizes
    from saei.diagnostics.bench import bench as measure

    sizes = Sizes(side, prompts, responses, tokens, rounds)
    if objective is None:
        result, ratios = measure(config, sizes), RATIOS
    else:
        from saei.diagnostics import bench_update

        result, ratios = bench_update.bench_update(config, sizes), bench_update.RATIOS
    print(json.dumps(result, indent=2)) if as_json else _show(result, ratios)


def _show(result: dict[str, Any], pairs: Mapping[str, tuple[str, str]]) -> None:
    from rich.table import Table

    console = screen()
    console.print(
        f"{result['model']}: {result['parameters']:,} parameters, {result['dtype']}, on {result['device']} with "
        f"{result['threads']} thread(s); {result['prompt_tokens']} prompt tokens, {result['image_tokens']} of them the "
        f"image's; {result['responses']} responses of {result['tokens']} tokens; {result['prompts']} prompts a step; "
        f"{'CPU' if result['device'] == 'cpu' else 'wall'} time, medians of {result['rounds']} rounds",
    )
    passes = result.get("passes", {})
    ways = Table("way", "ms", "peak MB", *(["model calls"] if passes else []), box=None, padding=(0, 2, 0, 0))
    for name, seconds in result["seconds"].items():
        peak = result["peak_bytes"][name]
        calls = [str(passes[name])] if passes else []
        ways.add_row(name, f"{1000 * seconds:.0f}", "" if peak is None else f"{peak / 1e6:.0f}", *calls)
    ratios = Table("ratio", "measured", box=None, padding=(0, 2, 0, 0))
    for name, value in result["ratios"].items():
        ratios.add_row(" / ".join(pairs[name]), f"{value:.2f}")
    console.print(ways, ratios, sep="\n\n")
    for part in result.get("idle", ()):
        console.print(f"\nThe {part} acts only with several updates per batch: --set training.updates_per_batch=2.")
