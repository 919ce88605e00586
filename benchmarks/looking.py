"""CPU time of `saei runs` over many runs, which this makes up, and of `saei inspect` on the built-in model.

    .venv/bin/python benchmarks/looking.py
    .venv/bin/python benchmarks/looking.py --runs 1000

`saei runs` is a process of its own, its start included. `saei inspect` is called twice in one process: what the first
call takes longer are imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from saei.config.run import validate
from saei.data.bars import Bars
from saei.runtime.run_dir import RunDir

STEPS, EVERY = 80, 10

INSPECT = """
import contextlib, io, sys, time
from saei.cli import main
for call in ("first", "second"):
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    print(time.process_time() - begin, file=sys.stderr)
"""


def make_runs(root: Path, count: int) -> None:
    """Write runs of 80 steps that differ in their seeds."""
    first = RunDir.create(validate({"output": {"root": str(root), "name": "run-0"}, "training": {"steps": STEPS}}))
    for step in range(STEPS + 1):
        line = {"step": step, **{f"train/metric-{n}": 0.5 for n in range(60)}}
        if step % EVERY == 0:
            line |= {"eval/accuracy": 0.5, "probe/entropy": 0.5}
        first.append(line)
    first.lock.release()
    config = (first.path / "config.yaml").read_text()
    for number in range(1, count):
        folder = root / f"run-{number}"
        shutil.copytree(first.path, folder)
        (folder / "config.yaml").write_text(config.replace("seed: 0", f"seed: {number}"))


def cpu_seconds(words: list[str]) -> float:
    """Return the CPU time of a command, that of its children included."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return spent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    saei = str(Path(sys.executable).with_name("saei"))
    with tempfile.TemporaryDirectory() as scratch:
        root, chart = Path(scratch) / "runs", Path(scratch) / "chart.png"
        make_runs(root, options.runs)
        listed = subprocess.run([saei, "runs", str(root), "--json"], check=True, capture_output=True)
        assert len(json.loads(listed.stdout)) == options.runs
        print(f"saei runs over {options.runs} runs: {cpu_seconds([saei, 'runs', str(root)]):.1f} s of one core")
        example = Bars().example(0)
        example.images[0].save(chart)
        words = [sys.executable, "-c", INSPECT, "inspect", str(chart), example.question]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stderr.split()
    first, second = map(float, said[-2:])
    print(f"saei inspect on the built-in model: {second:.1f} s of one core, {first - second:.1f} s of imports before")


if __name__ == "__main__":
    main()
