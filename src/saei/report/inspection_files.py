"""An inspection as a page and as a picture."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from saei.errors import shown
from saei.report.inspection import Answer, Inspection, Token
from saei.report.tokens import CHANGES, ENTROPIES, LETTERS, change_shade, shade, visible
from saei.runtime.files import replacing, write_whole
from saei.runtime.pictures import TIMES, difference

COLUMNS = 118
"""Characters in a line of a picture."""

LINE_IN, CHARACTER_IN = 0.19, 0.0753
"""Height of a line and width of a character of DejaVu Sans Mono at 9 points, in inches."""

MOST_LINES = 14
"""Lines of a response in a picture; the page has all."""


def write(inspection: Inspection, file: Path) -> None:
    """Write an inspection: a page for ``.html``, else a picture.

    Raises:
        OSError: If the disk refuses.
    """
    if file.suffix.lower() == ".html":
        from saei.report.page.inspection import inspection_page

        write_whole(file, inspection_page(inspection))
    else:
        draw(inspection, file)


def draw(inspection: Inspection, file: Path) -> None:
    """Write an inspection as a picture: the views above, the tokens in their colours below."""
    from matplotlib.figure import Figure

    head = [shown(inspection.question, 300)]
    if inspection.moved_question != inspection.question:
        head.append(f"Perturbed: {shown(inspection.moved_question, 300)}")
    head += [f"{name}: {shown(value, 300)}" for name, value in inspection.settings.items()]
    head += inspection.summary()
    head = [line for text in head for line in textwrap.wrap(text, COLUMNS - 62) or [""]]
    body = _body(inspection)
    rows = len(inspection.clean)
    top_in = max(2.2 * rows, LINE_IN * (len(head) + 1)) + 0.3
    height, width = top_in + LINE_IN * (len(body) + 1), CHARACTER_IN * COLUMNS + 0.4
    figure = Figure(figsize=(width, height))
    _pictures(figure, inspection, top_in / height)
    for number, line in enumerate(head):
        weight = "bold" if number == 0 else "normal"
        place = 1 - (0.3 + LINE_IN * number) / height
        figure.text(0.53, place, line, fontsize=8, va="top", parse_math=False, weight=weight)
    axis = figure.add_axes((0.2 / width, 0, 1 - 0.4 / width, 1 - top_in / height))
    axis.set_axis_off()
    axis.set(xlim=(0, COLUMNS), ylim=(len(body) + 1, 0))
    for number, runs in enumerate(body):
        _line(axis, number + 0.5, runs)
    with warnings.catch_warnings(), replacing(file) as temporary:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a font has not every script's letters
        figure.savefig(temporary, dpi=130)


Run = tuple[str, str | None, bool]
"""Characters of one style: the text, its colour, and whether it is underlined."""


def _body(inspection: Inspection) -> list[list[Run]]:
    """Return the lines below the pictures."""

    def by_entropy(token: Token) -> str | None:
        return shade(token.entropy)

    def by_change(token: Token) -> str | None:
        return change_shade(token.change)

    legend = _plain("Underlined: the tokens that the criterion looked at. Entropy in nats, from: ")
    legend += [(f" {limit:g} ", shade(limit), False) for limit in ENTROPIES]
    of_changes = _plain("Blue and red: how a token's entropy changes under the perturbed picture, from: ")
    limits = [*(-limit for limit in reversed(CHANGES)), *CHANGES]
    of_changes += [(f" {change:+g} ", change_shade(change), False) for change in limits]
    lines = [legend, of_changes, [], _plain("Responses to the clean picture, and below each how its entropy changes")]
    for number, answer in enumerate(inspection.answers, 1):
        heading = f"{number:>2} {answer.entropy:.3f} "
        lines += _wrapped(heading, answer, by_entropy)
        lines += _wrapped(f"→  {answer.moved:.3f} ", answer, by_change)
    lines += [[], _plain("Responses to the perturbed picture")]
    for number, answer in enumerate(inspection.perturbed_answers, 1):
        lines += _wrapped(f"{number:>2} {answer.entropy:.3f} ", answer, by_entropy)
    return lines


def _plain(text: str) -> list[Run]:
    return [(text, None, False)]


def _wrapped(heading: str, answer: Answer, colour: Callable[[Token], str | None]) -> list[list[Run]]:
    """Return a response's tokens in lines, the first with a heading and the others indented as far."""
    lines: list[list[Run]] = [_plain(heading)]
    room = COLUMNS - len(heading)
    for token in answer.tokens:
        text = _drawable(visible(token.piece[: MOST_LINES * COLUMNS]).replace("\n", ""))
        while text:
            part, text = text[:room], text[room:]
            lines[-1].append((part, colour(token), token.selected))
            room -= len(part)
            if room == 0:
                lines.append(_plain(" " * len(heading)))
                room = COLUMNS - len(heading)
        if len(lines) > MOST_LINES:
            return [*lines[:MOST_LINES], _plain(" " * len(heading) + "…")]
    if not answer.tokens:
        lines[-1].append(("(empty)", None, False))
    return lines


def _drawable(text: str) -> str:
    """Return a text with a mark for each character that no font can draw."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _line(axis: Any, y: float, line: Sequence[Run]) -> None:
    """Draw a line of runs from the left, each character as wide as another."""
    from matplotlib.patches import Rectangle

    x = 0
    for text, colour, underlined in line:
        if colour is not None:
            axis.add_patch(Rectangle((x, y - 0.45), len(text), 0.9, color=colour, linewidth=0))
        if underlined:
            axis.plot((x, x + len(text)), (y + 0.42, y + 0.42), color=LETTERS, linewidth=1)
        axis.text(x, y, text, fontsize=9, family="monospace", va="center", color=LETTERS, parse_math=False)
        x += len(text)


def _pictures(figure: Any, inspection: Inspection, share: float) -> None:
    """Draw clean picture, perturbed picture and their difference in the upper left, a row for each picture."""
    if not inspection.clean:  # a question without a picture, whose words were moved
        return
    grid = figure.add_gridspec(
        len(inspection.clean), 3, left=0.02, right=0.51, top=0.98, bottom=1.02 - share, wspace=0.05
    )
    for row, (clean, perturbed) in enumerate(zip(inspection.clean, inspection.perturbed, strict=True)):
        images = {
            "clean": clean,
            "perturbed": perturbed,
            f"difference, enlarged {TIMES} times": difference(clean, perturbed),
        }
        for column, (name, image) in enumerate(images.items()):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(image, interpolation="nearest")
            axis.set_title(name, fontsize=9)
            axis.set_axis_off()
