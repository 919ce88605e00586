"""The task `lock-in` on fresh bases: which arm escapes from the poor strategy, and when.

Bases are built from consecutive seeds and accepted by their gate alone, before any reinforcement; every arm trains on
every accepted base, with one seed, the same responses a step and the same horizon. What is complete is not repeated:
`python benchmarks/lock_in.py --coupling faded --bases 8 --first-seed 400 --jobs 2`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collapse import run
from rich.console import Console
from rich.table import Table

from saei.evaluation.statistics.intervals import mean_interval, proportion_interval, sign_flip_p
from saei.report.compare import Curve, read_curve

ESCAPED = 0.7
"""Sampled accuracy on clear charts above which a run has left the poor strategy, which alone reaches about .2."""

PLUGIN = Path(__file__).parent / "strategies" / "faded_copy.py"
ATTACK = "sampler.intervention.attack"
ARMS: Mapping[str, tuple[str, ...]] = {
    "GRPO": ("sampler.type=clean",),
    "SaEI 2/255": ("sampler.type=mixed", f"{ATTACK}.step=2/255"),
    "SaEI 4/255": ("sampler.type=mixed", f"{ATTACK}.step=4/255"),
    "SaEI lowering 4/255": ("sampler.type=mixed", f"{ATTACK}.step=4/255", f"{ATTACK}.direction=lower"),
    "random signs 4/255": ("sampler.type=mixed", f"{ATTACK}.type=noise", f"{ATTACK}.radius=4/255"),
    "NoisyRollout": ("sampler.type=noisy",),
    "faded copy, update on it": ("sampler.type=mixed", f"{ATTACK}.type=benchmarks/faded-copy"),
    "faded copy, clean update": (
        "sampler.type=mixed",
        "sampler.update_on=clean",
        f"{ATTACK}.type=benchmarks/faded-copy",
    ),
}
SETTINGS = (
    "training.prompts_per_step=2",
    "optimizer.lr=1e-4",
    "evaluation.every=20",
    "evaluation.examples=32",
    "evaluation.probe_examples=8",
    "output.checkpoint_every=80",
    "output.keep_checkpoints=1",
)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Build the bases, run all arms, print a table, write a picture and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coupling", default="faded")
    parser.add_argument("--bases", type=int, default=8, help="accepted ones")
    parser.add_argument("--most-bases", type=int, help="built before one gives up (default: four times --bases)")
    parser.add_argument("--first-seed", type=int, default=400, help="of the bases; lower ones were used for tuning")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/lock-in"))
    parser.add_argument("--set", action="append", default=[], help="any field of the runs")
    options = parser.parse_args(arguments)
    root = options.output / options.coupling
    with ThreadPoolExecutor(options.jobs) as pool:
        gates = bases(
            root / "bases",
            options.coupling,
            options.bases,
            options.most_bases or 4 * options.bases,
            options.first_seed,
            options.jobs,
        )
        accepted = [gate for gate in gates if gate["accepted"]]
        jobs = {
            (arm, gate["seed"]): pool.submit(
                run,
                root / f"{arm}-{gate['seed']}".replace("/", "-").replace(" ", "-").replace(",", ""),
                {"--model": gate["folder"], "--task": "lock-in", "--steps": options.steps, "--plugin": PLUGIN},
                [word for setting in (*SETTINGS, *ARMS[arm], *options.set) for word in ("--set", setting)],
            )
            for gate in accepted
            for arm in options.arms
        }
        curves = {key: read_curve(key[0], job.result()) for key, job in jobs.items()}
    seeds = [gate["seed"] for gate in accepted]
    results = {arm: summary([curves[arm, seed] for seed in seeds]) for arm in options.arms if seeds}
    if "GRPO" in results:
        for arm in results:
            results[arm]["against GRPO"] = paired(results[arm]["accuracy"], results["GRPO"]["accuracy"])
    found = {"coupling": options.coupling, "steps": options.steps, "gates": gates, "arms": results}
    (root / "results.json").write_text(json.dumps(found, indent=2))
    show(found)
    if curves:
        draw(list(curves.values()), root / "lock-in.png", f"lock-in, coupling {options.coupling}, {len(seeds)} bases")
    return found


def bases(root: Path, coupling: str, wanted: int, most: int, first: int, jobs: int) -> list[dict[str, Any]]:
    """Build bases from consecutive seeds until enough are accepted or the most is built; return their gates."""
    gates: list[dict[str, Any]] = []
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(first, first + most, jobs):
            seeds = range(start, min(start + jobs, first + most))
            gates += pool.map(lambda seed: base(root / f"seed-{seed}", coupling, seed), seeds)
            for end in range(len(gates) + 1):
                if sum(gate["accepted"] for gate in gates[:end]) == wanted:
                    return gates[:end]
    return gates


def base(folder: Path, coupling: str, seed: int) -> dict[str, Any]:
    """Build one base in a process of its own unless it is there; return its gate."""
    recipe = folder / "recipe.json"
    if not recipe.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = ["build-tiny", str(folder), "--recipe", "lock-in", "--coupling", coupling, "--seed", str(seed)]
        with folder.with_suffix(".log").open("w") as log:
            subprocess.run([sys.executable, "-m", "saei.cli", *words], stdout=log, stderr=log, check=True)
    return {"folder": str(folder), **json.loads(recipe.read_text())["gate"]}


def summary(curves: Sequence[Curve]) -> dict[str, Any]:
    """Return what is told of one arm: final numbers per base, escapes with exact intervals, times to escape."""
    final = [curve.points[-1] for curve in curves]
    accuracy = [float(point["eval/accuracy"]) for point in final]
    escapes = sum(value > ESCAPED for value in accuracy)
    times = [next((p["step"] for p in curve.points if p["eval/accuracy"] > ESCAPED), None) for curve in curves]
    reached = sorted(time for time in times if time is not None)
    half = (len(times) + 1) // 2
    return {
        "accuracy": accuracy,
        "mean accuracy": statistics.fmean(accuracy),
        "escapes": escapes,
        "escapes interval": asdict(proportion_interval(escapes, len(accuracy))),
        "first step above": times,
        "median first step above": reached[half - 1] if len(reached) >= half else None,
        "step by step": [float(point.get("probe/strategy/steps", 0.0)) for point in final],
        "entropy": [float(point["probe/entropy"]) for point in final],
    }


def paired(arm: Sequence[float], control: Sequence[float]) -> dict[str, Any]:
    """Return the mean difference of final accuracies, paired by base, with its t-interval and exact p value."""
    differences = [a - b for a, b in zip(arm, control, strict=True)]
    return asdict(mean_interval(differences)) | {"p": sign_flip_p(differences)}


def show(found: Mapping[str, Any]) -> None:
    """Print the gates and a row per arm."""
    console = Console(width=150)
    for gate in found["gates"]:
        verdict = "accepted" if gate["accepted"] else "rejected"
        console.print(
            f"base {gate['seed']} {verdict}: careful {gate['careful_accuracy']:.3f} right, "
            f"share {gate['careful_share']:.5f} on clear charts, {gate['coupled_share']:.3f} on coupled ones"
        )
    table = Table(
        "arm", "escapes", "95 % exact", "median step", "mean accuracy", "against GRPO", "p", "steps", box=None
    )
    for arm, row in found["arms"].items():
        interval, against = row["escapes interval"], row.get("against GRPO")
        table.add_row(
            arm,
            f"{row['escapes']} of {len(row['accuracy'])}",
            f"{interval['low']:.2f} to {interval['high']:.2f}",
            str(row["median first step above"]),
            f"{row['mean accuracy']:.3f}",
            f"{against['mean']:+.3f} ({against['low']:+.3f} to {against['high']:+.3f})" if against else "",
            f"{against['p']:.3f}" if against else "",
            " ".join(f"{share:.2f}" for share in row["step by step"]),
        )
    console.print(table)


def draw(curves: Sequence[Curve], file: Path, title: str) -> None:
    """Draw the share of runs of each arm that were above the mark at some evaluation so far, and all accuracies."""
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(curve.label for curve in curves))
    figure = Figure(figsize=(3.1 * len(arms), 5.6), layout="constrained")
    figure.suptitle(f"{title}: sampled accuracy on clear charts")
    for axis, arm in zip(figure.subplots(1, len(arms), sharey=True, squeeze=False)[0], arms, strict=True):
        for curve in (one for one in curves if one.label == arm):
            values = [point["eval/accuracy"] for point in curve.points]
            axis.plot([point["step"] for point in curve.points], values, color="#2a9d8f", alpha=0.7)
        axis.axhline(ESCAPED, color="#4c5a67", linewidth=1, linestyle=":")
        axis.set(title=arm, xlabel="training step", ylim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
