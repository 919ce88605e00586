"""An evaluation's result on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from saei.console import screen
from saei.errors import shown


def show_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Print what was measured, the scores with their intervals, and the notes needed to read them."""
    settings, console = result["settings"], screen()
    sampling = settings["sampling"]
    limits = "".join(f", {name} {sampling[name]}" for name in ("top_p", "top_k") if sampling[name] not in (None, 1.0))
    decoding = f"temperature {sampling['temperature']}{limits}" if sampling["temperature"] else "greedy"
    n = settings["responses"]
    each = "1 response each" if n == 1 else f"{n} responses each"
    head = (
        f"{settings['model']['path']} on {result['examples']} examples of {settings['task']['type']} "
        f"(split {settings['split']}, clean view), {each}, {decoding}, "
        f"seed {settings['seed']}"
    )
    console.print(head)
    table = Table("score", "", "value", "95 % interval", "of", box=None, padding=(0, 2, 0, 0))
    for score in result["scores"]:
        group = f"{score['by']}: {shown(score['group'])}" if score["by"] else ""
        clustered = score["clusters"] not in (score["count"], 0)
        count_text = f"{score['count']} in {score['clusters']} clusters" if clustered else str(score["count"])
        value = f"{'~' if score['approximate'] else ''}{number(score['value'])}"
        interval = f"{number(score['low'])} to {number(score['high'])}"
        table.add_row(score["name"], group, value, interval, count_text)
    console.print(table)
    console.print(
        f"tokens {result['length']:.1f}, truncated {result['truncated']:.1%}, no final answer "
        f"{result['unreadable']:.1%}, examples left out {result['left_out']}, "
        f"policy busy {result['time']['busy']:.1%} of {result['time']['seconds']:.1f} s"
    )
    source = [f"Read: {settings['source']}"] if settings["source"] else []
    for text in (
        *source,
        f"Graded {result['agreement']}.",
        *result["notes"],
        f"Every answer: {folder / 'answers.jsonl'}",
    ):
        console.print(text, soft_wrap=True)


def show_robust(result: Mapping[str, Any]) -> None:
    """Print the accuracy under each condition and what it lost against clean pictures."""
    console = screen()
    table = Table("pictures", "accuracy", "against clean", "95 % interval", box=None, padding=(0, 2, 0, 0))
    mark = "~" if result["approximate"] else ""
    table.add_row("clean", mark + number(result["clean"]))
    for condition in result["conditions"]:
        change = condition["difference"]
        interval = f"{change['low']:+.3f} to {change['high']:+.3f}"
        table.add_row(condition["name"], mark + number(condition["accuracy"]), f"{change['mean']:+.3f}", interval)
    console.print(table)
    for text in (
        f"Attacks: {result['attack']}.",
        f"Graded {result['agreement']}.",
        *result["notes"],
        f"Every answer: {result['folder']}",
    ):
        console.print(text, soft_wrap=True)


def show_quick_look(report: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Print what was measured, and each number."""
    limits = "".join(f", {name} {report[name]}" for name in ("top_p", "top_k") if report[name] not in (None, 1.0))
    console = screen()
    console.print(
        f"{report['model']} on {report['examples']} examples of {report['task']['type']} (eval split, clean view), "
        f"{report['responses']} responses each at temperature {report['temperature']}{limits}, seed {report['seed']}",
    )
    table = Table("measure", "value", box=None, padding=(0, 2, 0, 0))
    error = metrics["accuracy_se"]
    table.add_row("accuracy", f"{metrics['accuracy']:.3f} (standard error {error:.3f})")
    for name, value in metrics.items():
        if name not in ("accuracy", "accuracy_se"):
            table.add_row(name.replace("_", " "), f"{value:.3f}")
    console.print(table)


def number(value: float | None) -> str:
    """Return a share with three decimals, ``none`` where there is no finite one."""
    return "none" if value is None else f"{value:.3f}"
