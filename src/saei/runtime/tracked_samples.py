"""Samples for experiment trackers: a table of the responses of an evaluation, with the pictures that they saw."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from saei.errors import printable
from saei.runtime.pictures import TIMES, difference, side_by_side
from saei.runtime.samples import GroupSample, ViewSample

TAG = "samples"

COLUMNS = (
    "group",
    "example",
    "view",
    "question",
    "answer",
    "response",
    "attacked tokens",
    "reward",
    "correct",
    "advantage",
    "entropy",
    "truncated",
)
"""Of a table with one row per response. The attacked tokens are those of a clean response that the attack looked at."""

PICTURES = ("picture", f"difference x {TIMES}")
"""Further columns: what the response saw, and how that differs from the clean picture."""

MOST = 4_000
"""Characters of a text in a cell; the run's own samples have all."""

SIDE = 512
"""Longest side of a picture, likewise."""

Cell: TypeAlias = str | float | bool | None
Picture: TypeAlias = Image.Image | None


def rows(group: GroupSample) -> list[list[Cell]]:
    """Return a group's table, a row of ``COLUMNS`` for each response."""
    table: list[list[Cell]] = []
    for number, response in enumerate(group.responses):
        view = group.views[response.view]
        attacked = [tokens.selected for view in group.views for tokens in view.tokens if tokens.response == number]
        chosen = [piece for piece, *masks in zip(response.pieces, *attacked, strict=False) if any(masks)]
        texts = (group.example, view.origin, view.question, view.answer, response.text, " · ".join(chosen))
        numbers = (response.reward, response.correct, response.advantage, response.entropy, response.truncated)
        table.append([name_of(group), *(printable(text, MOST) for text in texts), *numbers])
    return table


def name_of(group: GroupSample) -> str:
    """Return the name of a group among those of its step, such as ``held-out-0``."""
    return f"{group.source}-{group.number}"


def pictures(group: GroupSample) -> list[tuple[Picture, Picture]]:
    """Return for each view its pictures as one, and how they differ from the clean ones, enlarged.

    The first is None for a view without pictures, the second for one whose pictures are the clean ones or of other
    sizes.
    """
    opened = [_opened(view) for view in group.views]
    pairs: list[tuple[Picture, Picture]] = []
    for view, seen in zip(group.views, opened, strict=True):
        moved = view.pictures != group.views[0].pictures
        sizes = [picture.size for picture in seen] == [picture.size for picture in opened[0]]
        changes = list(map(difference, opened[0], seen)) if moved and sizes else []
        # Where a change is made smaller by a mean, neighbours of opposite signs would look like no change.
        pairs.append((_joined(seen, Image.Resampling.LANCZOS), _joined(changes, Image.Resampling.NEAREST)))
    return pairs


def to_tensorboard(tracker: Any, groups: Sequence[GroupSample], step: int) -> None:
    """Write groups as tables among the texts, and as pictures.

    Args:
        tracker: Accelerate's tracker.
        groups: The samples of one step.
        step: Steps done.
    """
    writer = tracker.tracker
    for group in groups:
        tag = f"{TAG}/{name_of(group)}"
        writer.add_text(tag, markdown([COLUMNS, *rows(group)]), step)
        for number, (view, pair) in enumerate(zip(group.views, pictures(group), strict=True)):
            for end, picture in zip(("", f"-difference-x{TIMES}"), pair, strict=True):
                if picture is not None:
                    name = f"{tag}/{number}-{view.origin}{end}"
                    writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
    writer.flush()


def to_wandb(tracker: Any, groups: Sequence[GroupSample], step: int) -> None:
    """Write groups as one table with pictures in its cells.

    Args:
        tracker: Accelerate's tracker.
        groups: The samples of one step.
        step: Steps done.
    """
    import wandb

    data: list[list[Any]] = []
    for group in groups:
        # One object for all rows of a view, since each has a file.
        images = [[None if each is None else wandb.Image(each) for each in pair] for pair in pictures(group)]
        for row, response in zip(rows(group), group.responses, strict=True):
            data.append([*row, *images[response.view]])
    tracker.log_table(TAG, columns=[*COLUMNS, *PICTURES], data=data, step=step)


WRITERS: Mapping[str, Callable[[Any, Sequence[GroupSample], int], None]] = {
    "tensorboard": to_tensorboard,
    "wandb": to_wandb,
}
"""The trackers that get samples, by name, and how."""


def markdown(table: Sequence[Sequence[Cell]]) -> str:
    """Return a table in Markdown, its first row the heading; text in it stays text."""
    heading, *body = [f"| {' | '.join(map(_cell, row))} |" for row in table]
    return "\n".join((heading, "|---" * len(table[0]) + "|", *body))


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        # As a character reference no sign means anything to Markdown or to HTML.
        return "".join(sign if sign.isalnum() or sign == " " else _reference(sign) for sign in value)
    return f"{value:.3g}"


def _reference(sign: str) -> str:
    return "<br>" if sign == "\n" else f"&#{ord(sign)};"


def _opened(view: ViewSample) -> list[Image.Image]:
    return [Image.open(io.BytesIO(content)).convert("RGB") for content in view.pictures]


def _joined(images: Sequence[Image.Image], resample: Image.Resampling) -> Picture:
    if not images:
        return None
    small = [image.copy() for image in images]
    for image in small:
        image.thumbnail((SIDE, SIDE), resample)  # in place
    return side_by_side(small)
