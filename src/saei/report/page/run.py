"""The page of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from saei.report.page.curves import Drawing, draw_marks, draw_panel
from saei.report.page.folder import RunFolder, setting, value
from saei.report.page.gallery import held_out_examples, training_examples
from saei.report.page.html import plural, render
from saei.report.page.panels import origins_of, panels_of
from saei.report.page.pictures import Album
from saei.report.page.settings import changed_settings, command
from saei.report.page.summary import summary
from saei.report.page.tokens import TokenPainter
from saei.runtime.sample_files import sample_files


def run_page(folder: RunFolder) -> str:
    """Return the page of a run."""
    missing = list(folder.missing)
    album, painter = Album(), TokenPainter()
    # The newest get what room there is first.
    training = training_examples(folder, album, painter)
    held_out = held_out_examples(folder, album, painter)
    if album.left_out:
        missing.append(f"There was no room on the page for {plural(album.left_out, 'picture')}; samples/ has all.")
    if album.damaged:
        missing.append(f"{plural(album.damaged, 'picture')} could not be read.")
    changed = changed_settings(folder)
    cost = _cost(folder)
    return render(
        "run.html",
        title=folder.title,
        folder=folder,
        missing=missing,
        answers=summary(folder),
        marks=_marks(folder),
        drawings=draw_panels(folder),
        held_out=held_out,
        training=training,
        origins=_origins(folder),
        settings=changed,
        command=command(folder, changed),
        versions=_mapping(folder.record.get("versions")),
        parts_of=[(path, _mapping(part)) for path, part in _mapping(folder.record.get("parts")).items()],
        commit=folder.record.get("git"),
        cost=cost,
        seconds=sum(seconds for _, seconds, _ in cost),
        responses=_last(folder, "train/budget"),
        looked_at=sum(value(line, "samples/responses") or 0.0 for line in folder.lines),
        sample_bytes=sum(file.stat().st_size for file in sample_files(folder.path).values()),
    )


def draw_panels(folder: RunFolder) -> list[Drawing]:
    """Return a run's curves."""
    drawings = [draw_panel(panel, [folder]) for panel in panels_of(folder)]
    return [drawing for drawing in drawings if drawing.rows]


@dataclass(frozen=True, slots=True)
class Marks:
    """Steps at which something happened, as a strip and in words."""

    svg: Markup
    counts: list[tuple[str, int, str]]


def _marks(folder: RunFolder) -> Marks | None:
    """Return the steps at which something was dropped, closed, scaled, cut off or at its limit; None without any."""
    limit = setting(folder.config, "optimizer.max_grad_norm")
    events: dict[str, tuple[str, list[int]]] = {
        "dropped": ("Guards left responses out of the update.", []),
        "closed": ("An intervention left groups alone: a gate was closed, or there was nothing to move.", []),
        "scaled": (f"The gradient was longer than {limit} and was scaled down.", []),
        "cut off": ("Responses reached the longest length.", []),
        "at its limit": ("The strength of the attack could go no further.", []),
        "no update": ("No group was left to train on.", []),
    }
    at_limit = 0.0
    trained = [line for line in folder.lines if any(name.startswith("train/") for name in line)]
    for n, line in enumerate([line for line in trained if line["step"] > 0], start=1):
        step = int(line["step"])
        norm = value(line, "train/grad_norm")
        share = value(line, "train/intervention/strength_at_limit") or 0.0
        at_the_limit, at_limit = round(share * n) > round(at_limit), share * n
        flags = {
            "dropped": (value(line, "train/dropped") or 0.0) > 0,
            "closed": (value(line, "train/untouched") or 0.0) > 0,
            "scaled": norm is not None and isinstance(limit, int | float) and norm > limit,
            "cut off": (value(line, "train/truncated") or 0.0) > 0,
            "at its limit": at_the_limit,
            "no update": "train/loss" not in line,
        }
        for name, flag in flags.items():
            if flag:
                events[name][1].append(step)
    happened = {name: steps for name, (_, steps) in events.items() if steps}
    if not happened:
        return None
    counts = [(name, len(steps), events[name][0]) for name, steps in happened.items()]
    return Marks(draw_marks(happened, folder.last_step), counts)


ORIGIN_COLUMNS = ("reward", "accuracy", "length", "truncated", "entropy")


def _origins(folder: RunFolder) -> list[tuple[str, list[tuple[float | None, float | None]]]]:
    """Return for each origin the means over the first and the last tenth of the steps, by column, then the KL.

    They are those of the steps at which a number was taken, which for the KL are the evaluated ones.
    """
    trained = [line for line in folder.lines if "train/reward" in line]
    rows = []
    for origin in origins_of(folder):
        names = [*(f"train/{origin}/{name}" for name in ORIGIN_COLUMNS), f"train/view_kl/{origin}"]
        rows.append((origin, [_first_and_last(trained, name) for name in names]))
    return rows


def _first_and_last(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[float | None, float | None]:
    """Return the means over the first and the last tenth of the lines with a number, None without any."""
    numbers = [number for line in lines if (number := value(line, name)) is not None]
    if not numbers:
        return None, None
    tenth = max(1, len(numbers) // 10)
    return sum(numbers[:tenth]) / tenth, sum(numbers[-tenth:]) / tenth


def _cost(folder: RunFolder) -> list[tuple[str, float, float]]:
    """Return seconds and share of each phase, the longest first."""
    seconds: Counter[str] = Counter()
    for line in folder.lines:
        for name in line:
            if name.startswith("time/"):
                seconds[name.removeprefix("time/")] += value(line, name) or 0.0  # type: ignore[assignment]
    total = math.fsum(seconds.values())
    return [(name, spent, spent / total if total else 0.0) for name, spent in seconds.most_common() if spent]


def _last(folder: RunFolder, name: str) -> float | None:
    numbers: Iterable[float | None] = (value(line, name) for line in reversed(folder.lines))
    return next((number for number in numbers if number is not None), None)


def _mapping(data: Any) -> dict[str, Any]:
    return {str(name): inner for name, inner in data.items()} if isinstance(data, Mapping) else {}
