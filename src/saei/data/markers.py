"""Markers in a question's text that say where its pictures stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from saei.errors import DataError, shown

MARKER = "<image>"
"""Where the next picture stands; ``<image2>`` and ``<image 2>`` are places of the second one."""

_MARKER = re.compile(r"<image ?(\d{0,3})>")


def place_images(
    question: str, images: Sequence[object], *, where: str, surplus: bool = False
) -> tuple[str, Sequence[object]]:
    """Return a question with one ``MARKER`` per place, and its images in the order of the prompt.

    Markers without a number stand for the images in their order. Where there are fewer of them than images, the first
    images go in front; markers at the very beginning say the same and are left out.

    Args:
        question: Text with markers.
        images: Its images, as they are numbered.
        where: Names the row in errors.
        surplus: Whether markers without an image are dropped instead of refused.

    Raises:
        DataError: If a marker has no image.
    """
    markers = list(_MARKER.finditer(question))
    numbers = [int(marker[1]) - 1 for marker in markers if marker[1]]
    free = [number for number in range(len(images)) if number not in numbers]
    unnumbered = iter(free[max(0, len(free) - len(markers) + len(numbers)) :])  # the first ones have no marker
    left = dict.fromkeys(range(len(images)))
    placed: list[int] = []
    parts: list[str] = []
    end = 0
    for marker in markers:
        number = int(marker[1]) - 1 if marker[1] else next(unnumbered, -1)
        parts.append(question[end : marker.start()])
        end = marker.end()
        if number in left:
            del left[number]
            placed.append(number)
            parts.append(MARKER)
        elif not surplus:
            raise DataError(
                "Every image marker of a question has an image of its own.",
                reason=f"{where[:1].upper()}{where[1:]} has {len(markers)} markers and {len(images)} images; "
                f"'{marker[0]}' is left without.",
                remedy="Add the image or remove the marker.",
            )
    text = "".join([*parts, question[end:]]).strip()
    while text.startswith(MARKER):
        text = text.removeprefix(MARKER).lstrip()
    return text, [images[number] for number in (*left, *placed)]


def split_text(text: str, count: int) -> Iterator[str | None]:
    """Return a text's parts in order, None for each of ``count`` images; those without a marker come first.

    Raises:
        DataError: If there are more markers than images.
    """
    parts = text.split(MARKER)
    in_front = count - (len(parts) - 1)
    if in_front < 0:
        raise DataError(
            "Every image marker of a question has an image of its own.",
            reason=f"'{shown(text)}' has {len(parts) - 1} markers, and its example {count} images.",
            remedy="Add the image or remove the marker.",
        )
    yield from [None] * in_front
    for number, part in enumerate(parts):
        if number:
            yield None
        if part:
            yield part
