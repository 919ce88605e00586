"""Whether each way of keeping entropy up in the update acts: one short run of each on the built-in model.

Every arm has the same base, prompts, number of responses and of optimiser steps, at least four updates per batch, and
its strategy's defaults. It shows entropies on the probe beside those of plain GRPO, what an arm touched, and what it
cost; runs this short, on a model this small, rank nothing. What is complete is not repeated:
`python benchmarks/rivals.py --seeds 3 --json benchmarks/rivals.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from saei.config.overrides import load_config
from saei.engine import Trainer
from saei.engine.combinations import idle_parts
from saei.engine.display import SilentDisplay
from saei.runtime.run_dir import RunDir

PLAIN, NOISY = "GRPO", "GRPO, half of the pictures noisy"
EVERY = ""
"""The metric of an arm that changes the loss of every token."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training.

    Attributes:
        settings: Assignments beside those of all arms.
        touched: The metric that says what share it acts on; None for controls.
        of: What that is a share of.
        control: The arm whose settings are the same without the strategy.
    """

    settings: tuple[str, ...] = ()
    touched: str | None = None
    of: str = "tokens"
    control: str = PLAIN


def _weight(name: str) -> Arm:
    return Arm((f"objective.weights=[{name}]",), f"train/{name}/touched")


def _term(name: str, touched: str | None = None) -> Arm:
    return Arm((f"objective.terms=[{name}]",), f"train/{name}/touched" if touched is None else touched)


def _advantage(name: str) -> Arm:
    return Arm((f"objective.advantage={name}",), "train/advantage/nonzero", "responses")


def _shaped(name: str) -> Arm:
    return Arm((f"objective.advantage={name}",), "train/advantage/shaped")


NOISY_SAMPLER = ("sampler.type=noisy", "sampler.n_clean=4", "sampler.n_adversarial=4")

ARMS: Mapping[str, Arm] = {
    PLAIN: Arm(),
    "kl-cov": Arm(("objective=kl-cov",), "train/penalised"),
    "cispo": Arm(("objective=cispo",), "train/clip_share"),
    "sapo": Arm(("objective=sapo",), EVERY),
    **{name: _weight(name) for name in ("clip-cov", "forking-tokens", "steer", "vppo")},
    **{name: _shaped(name) for name in ("entropy-shaped", "unlikeliness")},
    **{name: _advantage(name) for name in ("quantile", "pass-at-k", "grpo-passk", "gtpo", "grpo-s")},
    **{name: _term(name) for name in ("adaptive-entropy", "clamped-entropy", "nucleus-entropy", "papo", "roma")},
    "sampled-entropy": _term("sampled-entropy", EVERY),
    NOISY: Arm(NOISY_SAMPLER),
    "trust": Arm((*NOISY_SAMPLER, "objective.advantage=trust"), "train/advantage/nonzero", "responses", NOISY),
    "vogue": Arm((*NOISY_SAMPLER, "objective.advantage=vogue"), "train/advantage/shaped", control=NOISY),
}

SETTINGS = (
    "task=bars",
    "sampler.type=clean",
    "sampler.n=8",
    "training.prompts_per_step=4",
    "training.updates_per_batch=4",
    "sampling.max_new_tokens=32",
    "evaluation.examples=16",
    "evaluation.responses=1",
    "evaluation.probe_examples=8",
    "evaluation.adversarial_images=0",
    "output.keep_checkpoints=1",
)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train all arms and seeds, print a table and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, default=3, help="consecutive, from 0")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--set", action="append", default=[], help="any field of the runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    for seed in range(options.seeds):  # all arms of a seed first, so that a benchmark cut short still compares them
        for arm in options.arms:
            settings = [*_settings(ARMS[arm]), f"training.steps={options.steps}", f"seed={seed}", *options.set]
            runs[arm].append(train(options.output, f"{arm}-{seed}".replace(", ", "-").replace(" ", "-"), settings))
    found = {
        "steps": options.steps,
        "settings": [*SETTINGS, *options.set],
        "arms": {arm: summary(ARMS[arm], lines) for arm, lines in runs.items()},
    }
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _settings(arm: Arm) -> Sequence[str]:
    """Return an arm's assignments, its sampler's in the place of the others'."""
    own_sampler = any(setting.startswith("sampler.") for setting in arm.settings)
    return [*(each for each in SETTINGS if not (own_sampler and each.startswith("sampler."))), *arm.settings]


def train(root: Path, name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Train one run unless it is complete; return its lines of metrics, its CPU seconds and its idle parts."""
    folder = root / name
    summary_file = root / f"{name}.json"
    if summary_file.exists():
        known: dict[str, Any] = json.loads(summary_file.read_text())
        if known["settings"] == list(settings):
            return known
    shutil.rmtree(folder, ignore_errors=True)
    assignments = [*settings, "evaluation.every=1000000", f"output.root={root}", f"output.name={name}"]
    config = load_config(assignments=assignments)
    trainer = Trainer(config, display=SilentDisplay())
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    run = {
        "settings": list(settings),
        "seconds": seconds,
        "idle": idle_parts(config),
        "lines": RunDir(folder).metrics(),
    }
    summary_file.write_text(json.dumps(run))
    print(f"{name}: {seconds:.1f} s", flush=True)
    return run


def summary(arm: Arm, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is told of an arm, one number per seed."""
    last = [run["lines"][-1] for run in runs]
    steps = [[line for line in run["lines"] if line["step"]] for run in runs]
    shares = None
    if arm.touched is not None:
        shares = [statistics.fmean(line[arm.touched] if arm.touched else 1.0 for line in lines) for lines in steps]
    return {
        "control": arm.control,
        "entropy before": [run["lines"][0]["probe/entropy"] for run in runs],
        "entropy": [line["probe/entropy"] for line in last],
        "accuracy": [line["train/accuracy"] for line in last],
        "touched": shares,
        "touched of": arm.of,
        "responses": [line["train/budget"] for line in last],
        "seconds": [run["seconds"] for run in runs],
        "idle": runs[0]["idle"],
    }


def show(found: Mapping[str, Any]) -> None:
    """Print a row per arm."""
    console = Console(width=130)
    table = Table("arm", "probe entropy, by seed", "less its control's", "touched", "CPU s", box=None)
    for name, row in found["arms"].items():
        control = found["arms"].get(row["control"])
        differences = [a - b for a, b in zip(row["entropy"], control["entropy"], strict=True)] if control else []
        touched = "" if row["touched"] is None else f"{statistics.fmean(row['touched']):.2%} of {row['touched of']}"
        table.add_row(
            name,
            " ".join(f"{value:.3f}" for value in row["entropy"]),
            " ".join(f"{value:+.3f}" for value in differences if name != row["control"]),
            touched,
            f"{statistics.fmean(row['seconds']):.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
