"""``saei eval --compare``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from saei.console import say, screen
from saei.errors import ConfigError

if TYPE_CHECKING:
    from saei.evaluation.statistics.comparison import Contrast

WHAT = {
    "base": "Paired by base, the mean of its runs: the test concerns the methods, over bases like these.",
    "item": "Paired by item: the test concerns these two checkpoints, not the methods that made them.",
}


def compare_sides(patterns: Sequence[str], *, asked: bool, output: Path | None, as_json: bool) -> None:
    """Print each side against the first, and write ``comparison.json`` and the picture of pass@k.

    Raises:
        SaeiError: If the sides cannot be compared.
    """
    if not asked:
        raise ConfigError(
            "Folders are arguments of --compare.",
            reason=f"Got {', '.join(patterns)}.",
            remedy="Name the policy with --model, or add --compare.",
        )
    from saei.evaluation.statistics.comparison import contrasts
    from saei.evaluation.statistics.sides import read_sides
    from saei.evaluation.store import finite
    from saei.report.pass_curves import draw_pass_curves, pass_curve
    from saei.runtime.files import disk_errors, write_whole

    sides, settings = read_sides(patterns)
    found = contrasts(sides[0], sides[1:])
    curves = {side.name: {k: sum(own) / len(own) for k, own in pass_curve(side).items()} for side in sides}
    report = finite(
        {
            "reference": sides[0].name,
            "contrasts": [asdict(one) for one in found],
            "pass_at": curves,
            "runs": {side.name: {run.name: [run.base, run.accuracy] for run in side.runs} for side in sides},
            "settings": settings,
        }
    )
    folder = output or Path("runs/compare")
    picture = folder / "pass-at-k.png" if any(curves.values()) else None
    with disk_errors("A comparison is written into a folder.", folder, "Free some space, or give another --output."):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "comparison.json", json.dumps(report, indent=2))
        if picture is not None:
            name, n = settings["task"]["type"], settings["responses"]
            draw_pass_curves(sides, picture, f"pass@k on {name}, {settings['examples']} examples, {n} responses each")
    if as_json:
        print(json.dumps(report, indent=2))
        return
    show_contrasts(sides[0].name, found, curves)
    say("Written: " + ", ".join(map(str, filter(None, (folder / "comparison.json", picture)))))


def show_contrasts(reference: str, found: Sequence[Contrast], curves: dict[str, dict[int, float]]) -> None:
    """Print each side against the reference, how it was tested, and pass@k."""
    from rich.table import Table

    console = screen()
    console.print(f"Against {reference}:", soft_wrap=True)
    short = _short([reference, *(one.side for one in found), *curves])
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("side", overflow="fold")
    for name in ("accuracy", "difference, 95 % interval", "p", "Holm"):
        table.add_column(name, no_wrap=True)
    for one in found:
        before, after = one.accuracies
        difference = one.difference
        cells = (
            short[one.side],
            f"{before:.3f} → {after:.3f}",
            f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
            f"{one.p:.3g}",
            f"{one.adjusted:.3g}",
        )
        table.add_row(*cells)
    console.print(table)
    for one in found:
        console.print(
            f"{short[one.side]}: p by {one.test} over {one.count} {one.unit}s, "
            f"which finds a difference of {one.detectable:.3f} with a probability of 80 %.",
            soft_wrap=True,
        )
    for unit in dict.fromkeys(one.unit for one in found):
        console.print(WHAT[unit], soft_wrap=True)
    for one in found:
        if one.unpaired:
            console.print(f"{one.side}: not compared, as one side lacks it: {', '.join(one.unpaired)}")
    if any(curves.values()):
        ks = sorted({k for curve in curves.values() for k in curve})
        curve_table = Table("pass@k", *map(str, ks), box=None, padding=(0, 2, 0, 0))
        for side, curve in curves.items():
            curve_table.add_row(short[side], *(f"{curve[k]:.3f}" for k in ks))
        console.print(curve_table)


def _short(paths: Sequence[str]) -> dict[str, str]:
    """Return paths without the folder that all are in, by what they are in full."""
    folders = {os.path.dirname(path.rstrip(os.sep)) for path in paths}
    common = os.path.commonpath(folders) if all(folders) and len({*map(os.path.isabs, folders)}) == 1 else ""
    return {path: os.path.relpath(path, common) if common else path for path in paths}
