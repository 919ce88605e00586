"""Responses on a page: their tokens shaded by entropy, the chosen ones underlined, and what the attack changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

from saei.report.page.html import number, text
from saei.report.tokens import change_level, shade_level
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample

MOST_CHARACTERS = 2_800_000
"""Of the markup of all tokens on a page."""

LONGEST = 600
"""Tokens of one response that are shown one by one."""

LONGEST_PIECE = 40
"""Characters of a token in a table."""


@dataclass(frozen=True, slots=True)
class PaintedResponse:
    """A response on the page.

    Attributes:
        response: The response.
        tokens: Its tokens as markup; its text where they were not kept, or there is no room for them.
        changes: Its tokens again, shaded by how far the moved view changed their entropy; None if not looked at.
        chosen: The chosen tokens as text, for those who do not see the lines under them.
        change: Mean change of the entropy of the chosen tokens, in nats.
        note: What is not shown of it.
        numbers: The lines of a table with the numbers of each token, as markup.
    """

    response: ResponseSample
    tokens: Markup
    changes: Markup | None = None
    chosen: str = ""
    change: float | None = None
    note: str = ""
    numbers: Markup = field(default_factory=Markup)


class TokenPainter:
    """Turns responses into markup for one page, as long as there is room for single tokens."""

    def __init__(self, most: int = MOST_CHARACTERS) -> None:
        self._room = most

    def show(self, group: GroupSample, n: int) -> PaintedResponse:
        """Return a response of a group as the page shows it, as text alone where there is no more room."""
        painted = _painted(group, n)
        needed = len(painted.tokens) + len(painted.changes or "") + len(painted.numbers)
        if painted.numbers and needed > self._room:
            plain = Markup(escape(text(painted.response.text)))
            return PaintedResponse(painted.response, plain, note="Tokens are left out: the page is full.")
        if painted.numbers:
            self._room -= needed
        return painted


def _painted(group: GroupSample, n: int) -> PaintedResponse:
    response = group.responses[n]
    attacked = next((tokens for view in range(len(group.views)) if (tokens := group.tokens_of(n, view))), None)
    length = min(len(response.pieces), LONGEST)
    if not length or len(response.entropies) < length:
        return PaintedResponse(response, Markup(escape(text(response.text))))
    selected = attacked.selected if attacked else ()
    painted = Markup("".join(_token(response, place, selected) for place in range(length)))
    note = f"{len(response.pieces) - length} more tokens are left out." if len(response.pieces) > length else ""
    if attacked is None:
        return PaintedResponse(response, painted, note=note, numbers=_numbers(response, length))
    chosen = [piece for piece, flag in zip(response.pieces, selected, strict=False) if flag]
    changes, mean = None, None
    if len(attacked.entropies) >= length:
        changes = Markup("".join(_change(response, attacked, place) for place in range(length)))
        moved = [a - b for a, b, flag in zip(attacked.entropies, response.entropies, selected, strict=False) if flag]
        mean = sum(moved) / len(moved) if moved else None
    return PaintedResponse(
        response,
        painted,
        changes,
        " · ".join(map(str.strip, chosen[:60])),
        mean,
        note,
        _numbers(response, length, attacked),
    )


def _numbers(response: ResponseSample, length: int, attacked: AttackedTokens | None = None) -> Markup:
    moved = attacked.entropies if attacked and len(attacked.entropies) >= length else ()
    selected = attacked.selected if attacked else ()
    return number_rows(response.pieces[:length], response.entropies, response.logps, moved, selected)


def number_rows(
    pieces: Sequence[str],
    entropies: Sequence[float],
    logps: Sequence[float] = (),
    moved: Sequence[float] = (),
    selected: Sequence[bool] = (),
) -> Markup:
    """Return the lines of a table of tokens: text, entropies as it was drawn and under the perturbed view, log p.

    Args:
        pieces: The tokens' texts.
        entropies: Their entropies in nats.
        logps: Their log-probabilities, if they are known.
        moved: Their entropies under the perturbed view, if it was looked at.
        selected: Which of them the selector chose.
    """
    rows = []
    for n, piece in enumerate(pieces):
        cells = [number(values[n]) if n < len(values) else "" for values in (entropies, moved, logps)]
        cells.append("yes" if n < len(selected) and selected[n] else "")
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><th scope=row>{escape(text(piece[:LONGEST_PIECE]))}</th>{values}</tr>")
    return Markup("".join(rows))


def entropy_span(piece: str, entropy: float, *, chosen: bool, logp: float | None = None) -> str:
    """Return a token as markup, shaded by its entropy in nats and underlined if the selector chose it."""
    drawn = "" if logp is None else f", log-probability {number(logp)}"
    said = f"entropy {number(entropy)} nats{drawn}{', chosen' if chosen else ''}"
    return _span(piece, f"h{shade_level(entropy)}", said, chosen=chosen)


def change_span(piece: str, before: float, after: float, *, chosen: bool) -> str:
    """Return a token as markup, shaded by how far its entropy in nats moved."""
    level = change_level(after - before)
    said = f"entropy {number(before)} to {number(after)} nats"
    return _span(piece, f"{'u' if after > before else 'd'}{abs(level)}", said, chosen=chosen)


def _token(response: ResponseSample, n: int, selected: tuple[bool, ...]) -> str:
    chosen = n < len(selected) and selected[n]
    logp = response.logps[n] if n < len(response.logps) else None
    return entropy_span(response.pieces[n], response.entropies[n], chosen=chosen, logp=logp)


def _change(response: ResponseSample, attacked: AttackedTokens, n: int) -> str:
    chosen = n < len(attacked.selected) and attacked.selected[n]
    return change_span(response.pieces[n], response.entropies[n], attacked.entropies[n], chosen=chosen)


def _span(piece: str, shade: str, said: str, *, chosen: bool) -> str:
    classes = f"{shade} c" if chosen else shade
    return f'<span class="{classes}" title="{escape(said)}">{escape(text(piece)) or "∅"}</span>'
