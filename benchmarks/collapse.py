"""Plain GRPO and SaEI over several seeds: accuracy, probe entropy and zero-variance groups before and after.

Runs are kept and not repeated: `python benchmarks/collapse.py --task bars --seeds 5 --jobs 2`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from saei.engine.checkpoint import complete_in
from saei.report.compare import plot, read_curve

ARMS = {"GRPO": "clean", "SaEI": "mixed"}
NUMBERS = ("eval/accuracy", "probe/entropy", "probe/zero_variance", "probe/distinct_answers", "probe/answer_entropy")


def run(folder: Path, flags: Mapping[str, object], extra: Sequence[str] = ()) -> Path:
    """Train one run in a process of its own unless it is complete; go on with one that was interrupted.

    Args:
        folder: The run's; its log is written beside it.
        flags: Options of ``saei train``, ``--steps`` among them.
        extra: More words of the command.
    """
    saei = [sys.executable, "-m", "saei.cli", "train", "--plain"]
    metrics = folder / "metrics.jsonl"
    if metrics.exists() and json.loads(metrics.read_text().splitlines()[-1])["step"] >= flags["--steps"]:
        return folder
    if complete_in(folder / "checkpoints"):
        command = [*saei, "--resume", str(folder)]
    else:
        named = {**flags, "--name": folder.name, "--output": folder.parent}
        command = [*saei, *(str(word) for pair in named.items() for word in pair), *extra]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    return folder


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, float]]]:
    """Run all arms and seeds, print a table, write a picture and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="bars")
    parser.add_argument("--seeds", type=int, default=5, help="consecutive, from 0")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--set", action="append", default=[], help="any field of the runs")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    extra = [word for assignment in options.set for word in ("--set", assignment)]
    jobs = {
        (label, seed): (options.output / f"{options.task}-{sampler}-{seed}", sampler)
        for seed in range(options.seeds)
        for label, sampler in ARMS.items()
    }
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {
            key: pool.submit(
                run,
                folder,
                {"--sampler": sampler, "--task": options.task, "--seed": key[1], "--steps": options.steps},
                extra,
            )
            for key, (folder, sampler) in jobs.items()
        }
        curves = {key: read_curve(key[0], future.result()) for key, future in futures.items()}
    table = Table("run", *(f"{name.partition('/')[2]}" for name in NUMBERS), box=None)
    rows: dict[str, list[dict[str, float]]] = {label: [] for label in ARMS}
    for label in ARMS:
        for seed in range(options.seeds):
            first, last = curves[label, seed].points[0], curves[label, seed].points[-1]
            table.add_row(f"{label} {seed}", *(f"{first[name]:.3f} → {last[name]:.3f}" for name in NUMBERS))
            rows[label].append(
                {f"{when} {name}": line[name] for when, line in (("first", first), ("last", last)) for name in NUMBERS}
            )
    Console(width=140).print(table)
    plot(list(curves.values()), options.output / f"{options.task}.png", f"{options.task}, {options.seeds} seeds")
    (options.output / f"{options.task}.json").write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
