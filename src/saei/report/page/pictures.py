"""A view's pictures beside the clean ones: themselves, their difference enlarged, and where the gradient pointed."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from saei.runtime.pictures import TIMES, difference
from saei.runtime.samples import ViewSample

SIDE = 256
"""Longest side of a picture on a page; larger ones are made smaller."""

MOST_BYTES = 3_500_000
"""Of all pictures on a page, before they are written as text."""


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

    def __init__(self, most: int = MOST_BYTES) -> None:
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
            changed = self._difference(before, after)
            if changed is not None:
                caption = f"difference, {TIMES} times"
                said = f"{name} minus clean, enlarged {TIMES} times around grey; a grey picture is no change."
                figures += self._figure(changed, caption, said, resample=Image.Resampling.NEAREST)
        for signs in view.gradients:
            picture = self._open(signs)
            if picture is not None:
                said = "Signs of the first gradient: bright where more of a colour raises the criterion, else dark."
                figures += self._figure(picture, "gradient", said, resample=Image.Resampling.NEAREST)
        return figures

    def _figures(self, pictures: tuple[bytes, ...], caption: str, description: str) -> list[Figure]:
        opened = [picture for picture in map(self._open, pictures) if picture is not None]
        return [figure for picture in opened for figure in self._figure(picture, caption, description)]

    def _open(self, content: bytes) -> Image.Image | None:
        try:
            with Image.open(io.BytesIO(content)) as picture:
                return picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
            self.damaged += 1
            return None

    def _difference(self, before: bytes, after: bytes) -> Image.Image | None:
        clean, moved = self._open(before), self._open(after)
        return None if clean is None or moved is None or clean.size != moved.size else difference(clean, moved)

    def _figure(
        self,
        picture: Image.Image,
        caption: str,
        description: str,
        resample: Image.Resampling = Image.Resampling.LANCZOS,
    ) -> list[Figure]:
        small = max(picture.size) <= SIDE
        if not small:
            scale = SIDE / max(picture.size)
            width, height = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), resample)
        stream = io.BytesIO()
        lossy = not small and resample == Image.Resampling.LANCZOS
        if lossy:
            picture.save(stream, format="JPEG", quality=85)
        else:
            picture.save(stream, format="PNG")
        if stream.tell() > self._room:
            self.left_out += 1
            return []
        self._room -= stream.tell()
        data = base64.b64encode(stream.getvalue()).decode()
        return [Figure(caption, description, f"data:image/{'jpeg' if lossy else 'png'};base64,{data}", small)]
