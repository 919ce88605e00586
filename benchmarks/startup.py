"""Time of `saei --help`, in a fresh process each round: wall clock and CPU time, medians."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

GOAL = 0.5
"""Seconds."""


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    wall, cpu = [], []
    for _ in range(options.rounds):
        start, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-m", "saei.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        wall.append(time.perf_counter() - start)
        cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
    result = {"wall_seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    print(
        f"saei --help: {result['wall_seconds']:.2f} s, {result['cpu_seconds']:.2f} s of CPU time; goal {GOAL} s; "
        f"medians of {options.rounds} rounds"
    )
    return result


if __name__ == "__main__":
    main()
