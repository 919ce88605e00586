"""The page of an inspection: one question before any training."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup
from PIL.Image import Image

from saei.report.inspection import Answer, Inspection
from saei.report.page.html import plural, render
from saei.report.page.pictures import Album, Figure
from saei.report.page.tokens import change_span, entropy_span, number_rows

LARGEST = 12
"""Tokens in the table of largest changes."""


@dataclass(frozen=True, slots=True)
class PaintedAnswer:
    """A response on the page.

    Attributes:
        answer: The response.
        tokens: Its tokens as markup.
        numbers: The lines of a table with the numbers of each token.
        changes: Its tokens again, shaded by how far the perturbed view changed their entropy; None if not looked at.
    """

    answer: Answer
    tokens: Markup
    numbers: Markup
    changes: Markup | None = None


def inspection_page(inspection: Inspection) -> str:
    """Return an inspection as a page; all text on it is escaped."""
    album = Album()
    pictures = [
        _figures(album, clean, perturbed)
        for clean, perturbed in zip(inspection.clean, inspection.perturbed, strict=True)
    ]
    return render(
        "inspection.html",
        title="saei inspect",
        missing=[f"There was no room on the page for {plural(album.left_out, 'picture')}."] if album.left_out else [],
        look=inspection,
        pictures=pictures,
        answers=[_painted(answer, attacked=True) for answer in inspection.answers],
        perturbed_answers=[_painted(answer, attacked=False) for answer in inspection.perturbed_answers],
        largest=inspection.largest_changes(LARGEST),
    )


def _figures(album: Album, clean: Image, perturbed: Image) -> list[Figure]:
    return [
        *album.figure(clean, "clean", "The clean picture."),
        *album.figure(perturbed, "perturbed", "The perturbed picture."),
        *album.difference(clean, perturbed, "perturbed"),
    ]


def _painted(answer: Answer, *, attacked: bool) -> PaintedAnswer:
    tokens = [entropy_span(token.piece, token.entropy, chosen=token.selected) for token in answer.tokens]
    numbers = number_rows(
        [token.piece for token in answer.tokens],
        [token.entropy for token in answer.tokens],
        moved=[token.entropy + token.change for token in answer.tokens] if attacked else (),
        selected=[token.selected for token in answer.tokens],
    )
    if not attacked:
        return PaintedAnswer(answer, Markup("".join(tokens)), numbers)
    changes = [
        change_span(token.piece, token.entropy, token.entropy + token.change, chosen=token.selected)
        for token in answer.tokens
    ]
    return PaintedAnswer(answer, Markup("".join(tokens)), numbers, Markup("".join(changes)))
