"""Cost of grading typical responses, workers included, in CPU seconds.

Examples have answers of all types in the shares below, with a dozen responses each, some of them equal, as a group's
are. Right and wrong answers are written in the ways that models write them. CPU time is that of this process and of
the workers, which are started and ended within.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.base import Attempt
from saei.rewards.graders.workers import workers
from saei.types import Example

SHARES = {"integer": 0.35, "number": 0.2, "expression": 0.2, "letter": 0.15, "yes-no": 0.05, "list": 0.05}
"""Share of the examples whose answer is of each type; expressions need algebra where their texts differ."""

GROUP = 12
THOUGHT = "The angle is inscribed, so it is half of the arc, and the sides follow from the theorem of Pythagoras. "


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def problem(kind: str, rng: random.Random) -> tuple[str, list[str]]:
    """Return a gold answer and the answers that responses give, right ones first."""
    a, b, c = (rng.randint(2, 60) for _ in range(3))
    if kind == "integer":
        return str(a * b), [str(a * b), f"{a * b}^\\circ", f"x = {a * b}", f"{a * b}\\text{{ cm}}", str(a * b + 1)]
    if kind == "number":
        return f"{a}\\sqrt{{{b}}}", [f"{a}\\sqrt{{{b}}}", f"{a * b**0.5:.2f}", f"\\sqrt{{{a * a * b}}}", str(a)]
    if kind == "expression":
        gold = f"{a}x^2+{b}x+{c}"
        other = f"x({a}x+{b})+{c}"
        return gold, [gold, other, f"{c} + {b}x + {a}x^2", f"y = {gold}", f"{a}x^2+{c}x+{b}", f"\\frac{{{a}x}}{{{b}}}"]
    if kind == "letter":
        return "C", ["C", "C. 40", "(C)", "B", "A. 30"]
    if kind == "yes-no":
        return "Yes", ["Yes", "yes.", "No"]
    return f"{a}, {b}", [f"{a}, {b}", f"x = {b} or x = {a}", f"{a}, {c}"]


def typical(count: int, seed: int) -> list[Attempt]:
    """Return responses in groups, with about 1500 characters of thought before the box."""
    rng = random.Random(seed)
    attempts: list[Attempt] = []
    while len(attempts) < count:
        kind = rng.choices([*SHARES], [*SHARES.values()])[0]
        gold, answers = problem(kind, rng)
        example = Example(f"{kind}-{len(attempts)}", "?", gold, meta={"answer_type": kind})
        for _ in range(min(GROUP, count - len(attempts))):
            thought = THOUGHT * rng.randint(8, 20)
            attempts.append(Attempt(example, f"<think>{thought}</think> \\boxed{{{rng.choice(answers)}}}"))
    return attempts


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=96, help="responses graded together: those of one step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    attempts = typical(options.responses, options.seed)
    reward = AccuracyFormat()
    workers.close()
    before = cpu_seconds()
    grades = []
    for start in range(0, len(attempts), options.batch):
        grades += reward.grade_all(attempts[start : start + options.batch])
    workers.close()
    seconds = cpu_seconds() - before
    reasons = Counter("algebra" if "by algebra" in grade.reason else "without" for grade in grades)
    found = {
        "responses": len(grades),
        "right": sum(grade.correct for grade in grades) / len(grades),
        "by_algebra": reasons["algebra"] / len(grades),
        "workers": workers.count,
        "cpu_seconds": seconds,
        "cpu_seconds_per_10000": seconds / len(grades) * 10_000,
    }
    table = Table("measure", "value", box=None, padding=(0, 2, 0, 0))
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)
    if options.json:
        options.json.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
