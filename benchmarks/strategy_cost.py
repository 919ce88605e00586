"""Cost of each strategy: CPU time of a training step with it, over a step of the sampler `clean`.

The built-in model looks at noise pictures, every response is exactly as long as asked, and both steps have the same
number of responses. Selectors, attacks and whatever else belongs to an intervention or looks at moved views are
measured within the sampler `mixed`, everything else within `clean`. Both kinds of step take turns in one process on one
thread; a ratio is the median over rounds. `python scripts/strategies_page.py` puts the ratios into docs/strategies.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saei.config.overrides import assigned, load_config
from saei.config.registry import entries, load
from saei.config.run import RunConfig
from saei.config.yaml import write_yaml
from saei.diagnostics.cost import ratio, retain_freed_memory, time_in_turns
from saei.diagnostics.synthetic import step_config
from saei.engine import Trainer
from saei.errors import SaeiError

FILE = Path(__file__).with_suffix(".json")

INTERVENING = ("selector", "attack", "criterion", "strength", "gate", "guard")
PLACES = {
    **{kind: kind for kind in INTERVENING},
    "surface": "intervention.surfaces",
    "sampler": "sampler",
    "decoder": "decoder",
    "objective": "objective",
    "advantage": "advantage",
    "weight": "objective.weights",
    "term": "objective.terms",
}
"""Where a strategy of a kind stands in a configuration.

The others are no part of a step, work in processes of their own, as rewards do, or are asked for by these.
"""

LISTS = ("surface", "weight", "term")

MOVED_VIEWS = ("trust", "vogue")
"""Advantages of responses to moved views, which a plain step has none of."""

FIELDS: Mapping[str, Mapping[str, Any]] = {
    "arms": {"arms": {"adversarial": {"n": 6}}},
    "torchattacks": {"name": "PGD"},
}
"""Of strategies without a default; others like them are left out."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and, if asked, write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(PLACES), choices=PLACES)
    parser.add_argument("--side", type=int, default=64, help="of the pictures, in pixels")
    parser.add_argument("--prompts", type=int, default=2, help="of a step")
    parser.add_argument("--responses", type=int, default=12, help="to each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="of each response")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help=f"such as {FILE.name} beside this script")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    retain_freed_memory()
    found: dict[str, dict[str, float]] = {}
    for kind in options.kinds:
        for entry in entries(kind):
            if entry.origin != "saei":
                continue
            try:
                cost = cost_of(kind, entry.name, options)
            except SaeiError as error:
                print(f"{kind} {entry.name}: not measured. {error}", flush=True)
                continue
            found.setdefault(kind, {})[entry.name] = round(cost, 3)
            print(f"{kind} {entry.name}: {cost:.2f}", flush=True)
    setting = (
        "Measured by `python benchmarks/strategy_cost.py` on one thread of a CPU, with the built-in model, pictures of "
        f"{options.side} pixels, and steps of {options.prompts} prompts with {options.responses} responses of "
        f"{options.tokens} tokens each. Medians of {options.rounds} rounds of one run: differences of some hundredths "
        "are noise."
    )
    result = {"setting": setting, "ratios": found}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return result


def cost_of(kind: str, name: str, options: argparse.Namespace) -> float:
    """Return the CPU time of a step with a strategy over that of a plain step."""
    with tempfile.TemporaryDirectory() as folder:
        plain = trainer_of(load_config(assignments=["sampler=clean"]), options, Path(folder) / "plain")
        with_it = trainer_of(configuration(kind, name), options, Path(folder) / "with")
        seconds = time_in_turns(
            {"plain": plain.train_step, "with": with_it.train_step}, options.rounds, with_it.policy.device
        )
    return ratio(seconds["with"], seconds["plain"])


def configuration(kind: str, name: str) -> RunConfig:
    """Return the configuration of a step with a strategy.

    Raises:
        SaeiError: If the strategy has no default, or cannot stand there.
    """
    fields = {"type": name, **FIELDS.get(name, {})} if name in FIELDS else {"type": name}
    missing = [each for each, field in load(kind, name).Config.model_fields.items() if field.is_required()]
    if set(missing) - set(fields):
        raise SaeiError("A strategy is measured at its defaults.", reason=f"It has none for {', '.join(missing)}.")
    value = [fields] if kind in LISTS else fields
    sampler = "mixed" if kind in (*INTERVENING, "surface") or name in MOVED_VIEWS else "clean"
    base = [] if kind == "sampler" else [f"sampler={sampler}"]
    return load_config(assignments=[*base, f"{PLACES[kind]}={write_yaml(value, flow=True).strip()}"])


def trainer_of(config: RunConfig, options: argparse.Namespace, folder: Path) -> Trainer:
    """Return a trainer whose steps have the size that is asked for."""
    config = assigned(config, config.sampler.build().plan().settings_for(options.responses))
    sizes = {"side": options.side, "prompts": options.prompts, "tokens": options.tokens}
    trainer = Trainer(step_config(config, **sizes, folder=folder))
    trainer.policy.never_end()
    return trainer


if __name__ == "__main__":
    main()
