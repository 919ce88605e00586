"""An inspection on the terminal: pictures as half blocks and tokens in colours where it has them, else plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL.Image import Image
from rich.console import Group
from rich.table import Table
from rich.text import Text

from saei.errors import printable, shown
from saei.report.inspection import Answer, Inspection, Token
from saei.report.pictures import half_blocks
from saei.report.tokens import CHANGES, ENTROPIES, LETTERS, change_shade, shade, visible
from saei.runtime.pictures import TIMES, difference

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MOST_TOKENS = 400
"""Tokens of a response that are shown on a terminal; the pages have all."""

MOST_CHARACTERS = 2000
"""Characters of a response, likewise: a token may be long."""


def show(console: Console, inspection: Inspection) -> None:
    """Print an inspection."""
    colour = console.is_terminal and console.color_system is not None and not console.no_color
    pictures = colour and console.color_system in ("256", "truecolor")
    console.print(Text(printable(inspection.question), "bold"))
    if inspection.moved_question != inspection.question:
        console.print(Text(f"Perturbed: {printable(inspection.moved_question)}", "bold"))
    for name, value in inspection.settings.items():
        console.print(Text(f"{name:<9} {shown(value, 200)}"))
    console.print()
    if pictures:
        for clean, perturbed in zip(inspection.clean, inspection.perturbed, strict=True):
            console.print(_side_by_side(clean, perturbed, console.width))
    for sentence in inspection.summary():
        console.print(sentence)
    console.print()
    console.print(_legend(colour=colour, underline=console.is_terminal))
    console.print("\nResponses to the clean picture, mean entropy there → under the perturbed one:")
    for number, answer in enumerate(inspection.answers, 1):
        heading = f"{number:>2}  {answer.entropy:.3f} → {answer.moved:.3f}  "
        console.print(_answer(heading, answer, colour=colour, underline=console.is_terminal))
        if colour and any(token.change for token in answer.tokens):
            console.print(_changes(" " * (len(heading) - 8) + "change  ", answer))
    console.print("\nResponses to the perturbed picture, mean entropy:")
    for number, answer in enumerate(inspection.perturbed_answers, 1):
        heading = f"{number:>2}  {answer.entropy:.3f}  "
        console.print(_answer(heading, answer, colour=colour, underline=console.is_terminal))
    console.print("\nLargest changes of entropy, tokens of the clean responses:")
    console.print(_largest(inspection))


def _side_by_side(clean: Image, perturbed: Image, width: int) -> RenderableType:
    """Return picture, perturbed picture and their difference, a third of the width each."""
    columns = min(40, (width - 4) // 3)
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=True)
    images = [clean, perturbed, difference(clean, perturbed)]
    for name in ("clean", "perturbed", f"difference, enlarged {TIMES} times"):
        table.add_column(name, no_wrap=True)
    table.add_row(*(_picture(image, columns) for image in images))
    return Group(table, Text())


def _picture(image: Image, columns: int) -> Text:
    text = Text()
    for line in half_blocks(image, columns):
        for upper, lower in line:
            text.append("▀", f"{upper} on {lower}")
        text.append("\n")
    text.right_crop(1)
    return text


def _legend(*, colour: bool, underline: bool) -> Text:
    """Return what colours and marks mean."""
    chosen = Text("underlined", "underline") if underline else Text("in ⟦ ⟧")
    text = Text.assemble("Tokens that the criterion looked at are ", chosen, ".")
    if colour:
        text.append(" Entropy in nats, from: ")
        for limit in ENTROPIES:
            text.append(f" {limit:g} ", _style(shade(limit)))
        text.append("; change, from: ")
        for change in (*(-limit for limit in reversed(CHANGES)), *CHANGES):
            text.append(f" {change:+g} ", _style(change_shade(change)))
    return text


def _answer(heading: str, answer: Answer, *, colour: bool, underline: bool) -> Text:
    text, before = Text(heading), False
    for token, piece in _shown(answer):
        if not underline and token.selected != before:
            text.append("⟦" if token.selected else "⟧")
        before = token.selected
        style = _style(shade(token.entropy)) if colour else ""
        text.append(piece, f"{style} underline".strip() if token.selected and underline else style)
    return text.append("⟧" if before and not underline else "").append(_rest(answer))


def _changes(heading: str, answer: Answer) -> Text:
    text = Text(heading, "dim")
    for token, piece in _shown(answer):
        text.append(piece, _style(change_shade(token.change)) or "dim")
    return text


def _shown(answer: Answer) -> list[tuple[Token, str]]:
    """Return the tokens that a terminal has room for, each with its text on one line."""
    room, shown_tokens = MOST_CHARACTERS, []
    for token in answer.tokens[:MOST_TOKENS]:
        piece = visible(token.piece[:room]).replace("\n", "")
        room -= len(token.piece)
        shown_tokens.append((token, piece))
        if room <= 0:
            break
    return shown_tokens


def _rest(answer: Answer) -> str:
    hidden = len(answer.tokens) - len(_shown(answer))
    cut = "  (cut off by the length limit)" if answer.truncated else ""
    if not answer.tokens:
        return "(empty)"
    return f" … ({hidden} more tokens){cut}" if hidden > 0 else cut


def _largest(inspection: Inspection) -> Table:
    table = Table("token", "response", "clean", "perturbed", "change", "", box=None, padding=(0, 2, 0, 0))
    for number, token in inspection.largest_changes():
        piece = Text(repr(shown(token.piece, 30)) if token.piece.strip() else repr(token.piece[:10]))
        marks = "looked at" if token.selected else ""
        moved = token.entropy + token.change
        values = (f"{token.entropy:.3f}", f"{moved:.3f}", f"{token.change:+.3f}")
        table.add_row(piece, str(number), *values, marks)
    return table


def _style(colour: str | None) -> str:
    return "" if colour is None else f"{LETTERS} on {colour}"
