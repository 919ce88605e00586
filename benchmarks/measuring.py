"""What it costs to measure each attack: the criterion after it, and the divergence between the views.

A whole SaEI step with `intervention.measure: always` against one with `never`, on the model of `vs_trl.py`, 2 prompts
x (6 + 6) responses of equal length. Times are process CPU time on one thread; the ratio is the median over rounds in
which each of the two runs once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from vs_trl import PIXELS_PER_TOKEN, save_model

from saei.config.run import RunConfig
from saei.config.sections import ModelConfig
from saei.diagnostics.bench import step_workloads
from saei.diagnostics.cost import ratio, retain_freed_memory, time_in_turns
from saei.diagnostics.synthetic import step_config
from saei.engine import Trainer
from saei.engine.display import SilentDisplay
from saei.samplers.mixed import Mixed

NEVER, ALWAYS = "not measured", "measured"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-tokens", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="of every response")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    retain_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", args.width)
        model = ModelConfig(path=str(Path(folder) / "model"), device="cpu")
        side = PIXELS_PER_TOKEN * round(args.image_tokens**0.5)
        config = step_config(RunConfig(model=model), side=side, prompts=2, tokens=args.tokens, folder=Path(folder))
        trainer = Trainer(config, display=SilentDisplay())
        trainer.policy.never_end()
        samplers = {
            name: Mixed(Mixed.Config.model_validate({"intervention": {"measure": when}}))
            for name, when in ((NEVER, "never"), (ALWAYS, "always"))
        }
        seconds = time_in_turns(step_workloads(trainer, dict(samplers)), args.rounds, trainer.policy.device)
    found = {
        "image_tokens": args.image_tokens,
        "tokens": args.tokens,
        "width": args.width,
        "rounds": args.rounds,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "measured_over_not": ratio(seconds[ALWAYS], seconds[NEVER]),
    }
    Console().print_json(json.dumps(found))
    if args.json:
        args.json.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
