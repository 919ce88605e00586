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

SCOPE = {
    "base": "Paired by base, the mean of its runs: the test concerns the methods, over bases like these.",
    "example": "Paired by example: the test concerns these two checkpoints, not the methods that made them.",
}
"""What a test's result is about, by the unit that it pairs."""


def compare_evaluations(patterns: Sequence[str], *, flag_given: bool, output: Path | None, as_json: bool) -> None:
    """Print each set of runs against the first, and write ``comparison.json`` and the picture of pass@k.

    Args:
        patterns: Folders of evaluations, or patterns of several; each is a set of runs.
        flag_given: Whether ``--compare`` was given.
        output: Folder for what is written.
        as_json: Print JSON.

    Raises:
        SaeiError: If the sets cannot be compared.
    """
    if not flag_given:
        raise ConfigError(
            "Folders are arguments of --compare.",
            reason=f"Got {', '.join(patterns)}.",
            remedy="Name the policy with --model, or add --compare.",
        )
    from saei.evaluation.statistics.comparison import contrasts
    from saei.evaluation.statistics.run_sets import read_run_sets
    from saei.evaluation.store import finite
    from saei.report.compare import draw_pass_curves, pass_curve
    from saei.runtime.files import disk_errors, write_whole

    run_sets, settings = read_run_sets(patterns)
    reference, *others = run_sets
    compared = contrasts(reference, others)
    curves = {
        run_set.name: {k: sum(values) / len(values) for k, values in pass_curve(run_set).items()}
        for run_set in run_sets
    }
    report = finite(
        {
            "reference": reference.name,
            "contrasts": [asdict(contrast) for contrast in compared],
            "pass_at": curves,
            "runs": {each.name: {run.name: [run.base, run.accuracy] for run in each.runs} for each in run_sets},
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
            title = f"pass@k on {name}, {settings['examples']} examples, {n} responses each"
            draw_pass_curves(run_sets, picture, title)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    show_contrasts(reference.name, compared, curves)
    say("Written: " + ", ".join(map(str, filter(None, (folder / "comparison.json", picture)))))


def show_contrasts(reference: str, contrasts: Sequence[Contrast], curves: dict[str, dict[int, float]]) -> None:
    """Print each set of runs against the reference, how it was tested, and pass@k."""
    from rich.table import Table

    console = screen()
    console.print(f"Against {reference}:", soft_wrap=True)
    short = _without_common_folder([reference, *(contrast.name for contrast in contrasts), *curves])
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("runs", overflow="fold")
    for heading in ("accuracy", "difference, 95 % interval", "p", "Holm"):
        table.add_column(heading, no_wrap=True)
    for contrast in contrasts:
        before, after = contrast.accuracies
        difference = contrast.difference
        table.add_row(
            short[contrast.name],
            f"{before:.3f} → {after:.3f}",
            f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
            f"{contrast.p:.3g}",
            f"{contrast.adjusted:.3g}",
        )
    console.print(table)
    for contrast in contrasts:
        console.print(
            f"{short[contrast.name]}: p by {contrast.test} over {contrast.count} {contrast.unit}s, "
            f"which finds a difference of {contrast.detectable:.3f} with a probability of 80 %.",
            soft_wrap=True,
        )
    for unit in dict.fromkeys(contrast.unit for contrast in contrasts):
        console.print(SCOPE[unit], soft_wrap=True)
    for contrast in contrasts:
        if contrast.unpaired:
            bases = ", ".join(contrast.unpaired)
            console.print(f"{contrast.name}: bases that only one of the two has are left out: {bases}")
    if any(curves.values()):
        ks = sorted({k for curve in curves.values() for k in curve})
        curve_table = Table("pass@k", *map(str, ks), box=None, padding=(0, 2, 0, 0))
        for name, curve in curves.items():
            curve_table.add_row(short[name], *(f"{curve[k]:.3f}" for k in ks))
        console.print(curve_table)


def _without_common_folder(paths: Sequence[str]) -> dict[str, str]:
    """Return each path without the folder that all of them are in, by the full path."""
    folders = {os.path.dirname(path.rstrip(os.sep)) for path in paths}
    common = os.path.commonpath(folders) if all(folders) and len({*map(os.path.isabs, folders)}) == 1 else ""
    return {path: os.path.relpath(path, common) if common else path for path in paths}
