"""The page of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei.config.changes import as_text
from saei.config.flat import flat
from saei.report.accuracy_difference import last_difference
from saei.report.compare import BUDGET, with_budget
from saei.report.page.curves import draw_panel
from saei.report.page.folder import RunFolder, accuracy_interval, interventions, read_folder, setting, type_name, value
from saei.report.page.gallery import SHORT, GalleryExample, gallery_group
from saei.report.page.html import number, render, with_interval
from saei.report.page.panels import Panel, panels_of
from saei.report.page.pictures import Album
from saei.report.page.tokens import TokenPainter
from saei.report.run_list import RunSummary
from saei.report.run_settings import differing, of_some_strategies, short
from saei.report.run_settings import setting as setting_of

ZERO_VARIANCE = "probe/zero_variance"

NUMBERS = (
    ("eval/accuracy", "accuracy"),
    ("probe/entropy", "entropy on the probe"),
    ("probe/distinct_answers", "different answers"),
    (ZERO_VARIANCE, "groups that teach nothing"),
    (BUDGET, "responses sampled"),
)


def runs_page(paths: Sequence[Path]) -> str:
    """Return the page of two runs."""
    folders = [read_folder(path) for path in paths]
    names = _names(folders)
    summaries = [
        RunSummary(folder.path, name, flat(folder.config)) for folder, name in zip(folders, names, strict=True)
    ]
    panels = {panel.title: _first_curve(panel) for folder in folders for panel in panels_of(folder)}
    drawings = [draw_panel(panel, folders, names) for panel in panels.values()]
    return render(
        "runs.html",
        title=" and ".join(
            f"{name} ({folder.method})" if folder.config else name for name, folder in zip(names, folders, strict=True)
        ),
        names=names,
        missing=[f"{name}: {each}" for name, folder in zip(names, folders, strict=True) for each in folder.missing],
        summary=_summary(folders, names),
        drawings=[drawing for drawing in drawings if drawing.rows],
        rows=[(label, [_first_and_last(folder, metric) for folder in folders]) for metric, label in NUMBERS],
        examples=_examples(folders, names),
        settings=[(short(path), [_setting(summary, path) for summary in summaries]) for path in differing(summaries)],
        hidden=of_some_strategies(summaries),
    )


def _first_curve(panel: Panel) -> Panel:
    """Return a panel of shares with its sum alone: all of them for two runs are too many lines to tell apart."""
    first = dict(list(panel.metrics.items())[:1])
    return replace(panel, metrics=first) if ZERO_VARIANCE in first else panel


def _setting(run: RunSummary, path: str) -> str:
    value = setting_of(run.config, path)
    return "\N{EN DASH}" if value is None or value == "null" else as_text(value)


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Return the shortest ends of the paths that differ, such as ``bars/saei`` and ``lock-in/saei``."""
    parts = [folder.path.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({n})" for n, folder in enumerate(folders, start=1)]  # the same folder twice


def _summary(folders: Sequence[RunFolder], names: Sequence[str]) -> list[str]:
    sentences = []
    tasks = [type_name(setting(folder.config, "task")) for folder in folders]
    if len(set(tasks)) > 1:
        sentences.append(f"They answer different tasks ({', '.join(tasks)}): their numbers cannot be compared.")
    for folder, name in zip(folders, names, strict=True):
        attacks = interventions(folder.config)
        how = f"attacks: {'; '.join(map(_attack, attacks.values()))}" if attacks else "attacks nothing"
        accuracy = _first_and_last(folder, "eval/accuracy")
        entropy = _first_and_last(folder, "probe/entropy")
        sentences.append(f"{name} {how}. Its accuracy went {accuracy}, its entropy on the probe {entropy}.")
    if len(set(tasks)) == 1:
        sentences += _difference(folders, names)
    seeds = ", ".join(str(setting(folder.config, "seed")) for folder in folders)
    sentences.append(
        f"One run of each arm (seeds {seeds}) shows what happened twice, not what the methods do: runs of one method "
        "with different seeds can end further apart than these two. In brackets is the 95 % interval over the held-out "
        "examples of each checkpoint. Compare several seeds of both before believing a difference."
    )
    return sentences


def _attack(slots: Mapping[str, Any]) -> str:
    attack, criterion, selector = (type_name(slots.get(name)) for name in ("attack", "criterion", "selector"))
    return f"{attack} moves the criterion {criterion} of the tokens that {selector} chooses"


def _difference(folders: Sequence[RunFolder], names: Sequence[str]) -> list[str]:
    """Return the difference in accuracy at the end with its interval, and what it can show."""
    difference = last_difference(folders)
    if difference is None:
        return []
    change, steps = difference.interval, difference.steps
    sentence = (
        f"At their last evaluations, steps {steps[0]} and {steps[1]}, the held-out accuracy of "
        f"{names[1]} is {number(abs(change.mean))} {'above' if change.mean >= 0 else 'below'} that of {names[0]}, with "
        f"a 95 % interval of the difference from {number(change.low)} to {number(change.high)}."
    )
    open_ = change.low <= 0 <= change.high
    sentence += " It holds 0: these two checkpoints may be equally good." if open_ else " It does not hold 0."
    if difference.examples is not None:
        return [sentence, f"It is paired by the {difference.examples} examples that both answered ({difference.test})."]
    return [
        sentence,
        f"{difference.unpaired}, so this interval takes the two as answers to different examples, which is wider than "
        "one paired by example; evaluate both checkpoints with saei eval and compare them with saei eval --compare for "
        "that one.",
    ]


def _first_and_last(folder: RunFolder, metric: str) -> str:
    points = [(line, at) for line in map(with_budget, folder.lines) if (at := value(line, metric)) is not None]
    if not points:
        return "none"
    (_, first), (last_line, last) = points[0], points[-1]
    interval = accuracy_interval(folder, last_line) if metric == "eval/accuracy" else None
    return f"{number(first)} → {with_interval(last, interval)}"


def _examples(folders: Sequence[RunFolder], names: Sequence[str]) -> list[tuple[str, int, list[GalleryExample]]]:
    """Return for each run the last step of which it kept held-out examples, and what it kept there."""
    by_run = []
    for folder, name in zip(folders, names, strict=True):
        groups = [group for group in folder.groups if group.source == "held-out" and group.views]
        last = max((group.step for group in groups), default=0)
        album, painter, examples = Album(), TokenPainter(), []
        for n, group in enumerate((group for group in groups if group.step == last), start=1):
            picture = album.clean(group.views[0])
            in_gallery = gallery_group(group, album, painter, most=SHORT, opened=n == 1)
            title = f"{name}, held-out example {n}"
            examples.append(GalleryExample(title, group.question, group.answer, picture, [in_gallery]))
        by_run.append((name, last, examples))
    return by_run
