"""The gallery: examples with their views, the responses to each, and what the attack changed in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from saei.report.page.folder import RunFolder
from saei.report.page.pictures import Album, Figure
from saei.report.page.tokens import PaintedResponse, TokenPainter
from saei.runtime.samples import GroupSample

WHOLE, SHORT = 12, 2
"""Responses to one view that are shown, of the last evaluation and of the others."""


@dataclass(frozen=True, slots=True)
class GalleryView:
    """A view in the gallery."""

    origin: str
    question: str | None
    seed: int | None
    strength: float | None
    distances: list[str]
    figures: list[Figure]
    responses: list[PaintedResponse]
    more: int


@dataclass(frozen=True, slots=True)
class GalleryGroup:
    """A group in the gallery."""

    sample: GroupSample
    views: list[GalleryView]
    answers: list[tuple[str, bool, list[int]]]
    open: bool


@dataclass(frozen=True, slots=True)
class GalleryExample:
    """An example with its groups at all evaluations that are shown."""

    title: str
    question: str
    answer: str
    figures: list[Figure]
    groups: list[GalleryGroup]


def held_out_examples(folder: RunFolder, album: Album, painter: TokenPainter) -> list[GalleryExample]:
    """Return the held-out examples, each with its group at every step that kept one."""
    groups = [group for group in folder.groups if group.source == "held-out" and group.views]
    last = max((group.step for group in groups), default=0)
    by_example: dict[str, list[GroupSample]] = {}
    for group in groups:
        by_example.setdefault(group.example, []).append(group)
    examples = []
    for n, groups_of_example in enumerate(by_example.values(), start=1):
        first = groups_of_example[0]
        clean = album.clean(first.views[0])
        at_steps = [
            gallery_group(group, album, painter, most=WHOLE if group.step == last else SHORT, opened=group.step == last)
            for group in reversed(groups_of_example)
        ]
        title = f"Held-out example {n}"
        examples.append(GalleryExample(title, first.question, first.answer, clean, list(reversed(at_steps))))
    return examples


def training_examples(folder: RunFolder, album: Album, painter: TokenPainter) -> list[GalleryExample]:
    """Return the first groups that the newest step with samples was trained on."""
    groups = [group for group in folder.groups if group.source == "training" and group.views]
    last = max((group.step for group in groups), default=0)
    examples = []
    for n, group in enumerate((group for group in groups if group.step == last), start=1):
        if n > 4:
            break
        in_gallery = gallery_group(group, album, painter, most=WHOLE, opened=n == 1)
        title = f"Training group {n} of step {group.step}"
        examples.append(GalleryExample(title, group.question, group.answer, album.clean(group.views[0]), [in_gallery]))
    return examples


def gallery_group(group: GroupSample, album: Album, painter: TokenPainter, *, most: int, opened: bool) -> GalleryGroup:
    """Return a group as the page shows it.

    Args:
        group: The group.
        album: Takes its pictures.
        painter: Paints its tokens.
        most: Responses to each view that are shown.
        opened: Whether the page shows it at once.
    """
    views = []
    for number, view in enumerate(group.views):
        numbers = [n for n, response in enumerate(group.responses) if response.view == number]
        views.append(
            GalleryView(
                origin=view.origin,
                question=view.question if view.question != group.question else None,
                seed=view.seed,
                strength=view.strength,
                distances=[
                    f"{surface}: {100 * each.share:.0f} % moved, at most {each.largest:.3g}"
                    for surface, each in view.distances.items()
                ],
                figures=album.moved(group.views[0], view) if number else [],
                responses=[painter.show(group, n) for n in numbers[:most]],
                more=max(0, len(numbers) - most),
            )
        )
    return GalleryGroup(group, views, _histogram(group), opened)


def _histogram(group: GroupSample) -> list[tuple[str, bool, list[int]]]:
    """Return the answers, the most frequent first: each with whether it is right and how often it is, by view."""
    counts = [Counter(response.extracted for response in group.from_view(n)) for n in range(len(group.views))]
    right = {response.extracted for response in group.responses if response.correct}
    total = sum(counts, Counter[str | None]())
    rows = [
        ("no answer" if answer is None else answer[:60], answer in right, [each[answer] for each in counts])
        for answer, _ in total.most_common(8)
    ]
    return rows if any(response.extracted for response in group.responses) else []
