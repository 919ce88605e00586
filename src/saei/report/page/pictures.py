"""A view's pictures beside the clean ones: themselves, their difference enlarged, and where the gradient pointed."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from saei.report.pictures import data_uri
from saei.runtime.pictures import TIMES, difference, directions
from saei.runtime.samples import ViewSample

SIDE = 256
"""Longest side of a picture on a page; larger ones are made smaller."""

MOST_CHARACTERS = 4_600_000
"""Of all pictures on a page, written as text."""


GRADIENT = "where the first gradient pointed: orange brighter, blue darker"
GRADIENT_SAID = (
    "Directions of the first gradient, no picture of the change: orange where a brighter pixel raises the criterion, "
    "blue where a darker one does, paler where its colours disagree."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture on the page: what it is, in two lengths, and its data."""

    caption: str
    description: str
    url: str
    small: bool


class Album:
    """Turns samples into pictures for one page, as long as there is room.

    Attributes:
        left_out: Pictures for which there was no room.
        damaged: Pictures that could not be read.
    """

    def __init__(self, most: int = MOST_CHARACTERS) -> None:
        self._room = most
        self.left_out = self.damaged = 0

    def clean(self, view: ViewSample) -> list[Figure]:
        """Return the pictures of a group's first view."""
        return self._figures(view.pictures, "as it is", "The picture as it is.")

    def moved(self, clean: ViewSample, view: ViewSample) -> list[Figure]:
        """Return a view's pictures, what differs from the clean ones, and the gradient."""
        name = view.origin
        figures = self._figures(view.pictures, name, f"The picture of the view {name}.")
        for before, after in zip(clean.pictures, view.pictures, strict=False):
            opened = self._open(before), self._open(after)
            if opened[0] is not None and opened[1] is not None:
                figures += self.difference(opened[0], opened[1], name)
        for signs in view.gradients:
            picture = self._open(signs)
            if picture is not None:
                figures += self.figure(directions(picture), GRADIENT, GRADIENT_SAID, Image.Resampling.NEAREST)
        return figures

    def difference(self, before: Image.Image, after: Image.Image, name: str) -> list[Figure]:
        """Return what changed between two pictures, enlarged; nothing for pictures of two sizes."""
        if before.size != after.size:
            return []
        caption = f"difference, enlarged {TIMES} times"
        said = f"{name} minus clean, enlarged {TIMES} times around grey; a grey picture is no change."
        return self.figure(difference(before, after), caption, said, resample=Image.Resampling.NEAREST)

    def _figures(self, pictures: tuple[bytes, ...], caption: str, description: str) -> list[Figure]:
        opened = [picture for picture in map(self._open, pictures) if picture is not None]
        return [figure for picture in opened for figure in self.figure(picture, caption, description)]

    def _open(self, content: bytes) -> Image.Image | None:
        try:
            with Image.open(io.BytesIO(content)) as picture:
                return picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
            self.damaged += 1
            return None

    def figure(
        self,
        picture: Image.Image,
        caption: str,
        description: str,
        resample: Image.Resampling = Image.Resampling.LANCZOS,
    ) -> list[Figure]:
        """Return a picture in a list, which is empty if there is no room for it, or was none for one before it."""
        if self.left_out:  # the page is full: no time is spent on what would not fit either
            self.left_out += 1
            return []
        small = max(picture.size) <= SIDE
        if not small:
            scale = SIDE / max(picture.size)
            width, height = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), resample)
        url = data_uri(picture, lossy=not small and resample == Image.Resampling.LANCZOS)
        if len(url) > self._room:
            self.left_out += 1
            return []
        self._room -= len(url)
        return [Figure(caption, description, url, small)]
