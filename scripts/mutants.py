"""Mutation testing of the pure-tensor packages: of a seeded sample of small changes, how many does a test notice?

mutmut makes the changes and runs the tests that reach them; what it changes and which tests it runs stands in
pyproject.toml. It leaves decorated functions alone. Working files are in mutants/, made anew by each run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "mutants"
MUTMUT = Path(sys.executable).with_name("mutmut")


def run(names: Sequence[str], seconds: float) -> str:
    """Test these mutants, one at a time, and return mutmut's output; what was tested by the deadline stays."""
    command = [str(MUTMUT), "run", "--max-children", "1", *names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            output, _ = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
    return output


def statuses() -> dict[str, str]:
    """Return what became of each mutant by its name, such as ``killed``, ``survived``, ``timeout``, ``not checked``."""
    listed = subprocess.run(
        [str(MUTMUT), "results", "--all", "true"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return dict(line.strip().split(": ", 1) for line in listed.splitlines() if ": " in line)


def changes(name: str) -> str:
    """Return a mutant as a diff."""
    return subprocess.run([str(MUTMUT), "show", name], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str] | None = None) -> None:
    """Make all mutants, test a sample, print killed of tried and each that survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=300, help="how many mutants are tried")
    parser.add_argument("--seed", type=int, default=0, help="which")
    parser.add_argument("--only", default="", help="only mutants whose name contains this, such as saei.attacks")
    parser.add_argument("--minutes", type=float, default=30, help="when to stop, whatever is left")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    shutil.rmtree(WORK, ignore_errors=True)
    # Names are known once the mutants are made. As none has this one, mutmut makes them, measures the tests, and ends.
    output = run(["none"], deadline - time.monotonic())
    names = sorted(name for name in statuses() if options.only in name) if WORK.exists() else []
    if not names:
        sys.exit(f"{output[-3000:]}\n\nmutmut made no mutants; its last words are above.")
    sample = random.Random(options.seed).sample(names, min(options.sample, len(names)))
    output = run(sample, deadline - time.monotonic())
    found = statuses()
    tried = {
        name: found[name]
        for name in sorted(sample)
        if found[name] not in ("not checked", "check was interrupted by user")
    }
    if not tried:
        sys.exit(f"{output[-3000:]}\n\nNo mutant was tried; mutmut's last words are above.")
    counts = Counter(tried.values())
    survivors = [name for name, status in tried.items() if status not in ("killed", "timeout")]
    for name in survivors:
        print(changes(name))
    killed = len(tried) - len(survivors)
    print(f"{killed} of {len(tried)} killed, of {len(names)} there are (seed {options.seed}); {dict(counts)}")
    if options.json:
        result = {"mutants": len(names), "seed": options.seed, "tried": len(tried), "killed": killed}
        options.json.write_text(json.dumps({**result, "survivors": survivors}, indent=2))


if __name__ == "__main__":
    main()
