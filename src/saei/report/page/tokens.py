"""Responses on a page: their tokens shaded by entropy, the chosen ones underlined, and what the attack changed."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from saei.report.page.html import number, text
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample

SHADES = (0.05, 0.2, 0.5, 1.0, 1.5, 2.5)
"""Entropies in nats at which the next darker shade begins."""

CHANGES = (0.001, 0.01, 0.05, 0.2)
"""Likewise for changes of the entropy, to either side."""

MOST_TOKENS = 40_000
"""Tokens of all responses on a page that are shown one by one."""

LONGEST = 600
"""Of one response."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A response on the page.

    Attributes:
        response: The response.
        tokens: Its tokens as markup; its text where they were not kept, or there is no room for them.
        changes: Its tokens again, shaded by how far the moved view changed their entropy; None if not looked at.
        chosen: The chosen tokens as text, for those who do not see the lines under them.
        change: Mean change of the entropy of the chosen tokens, in nats.
        note: What is not shown of it.
    """

    response: ResponseSample
    tokens: Markup
    changes: Markup | None = None
    chosen: str = ""
    change: float | None = None
    note: str = ""


class TokenPainter:
    """Turns responses into markup for one page, as long as there is room for single tokens."""

    def __init__(self, most: int = MOST_TOKENS) -> None:
        self._room = most

    def show(self, group: GroupSample, n: int) -> Shown:
        """Return a response of a group as the page shows it."""
        response = group.responses[n]
        attacked = next((tokens for view in range(len(group.views)) if (tokens := group.tokens_of(n, view))), None)
        length = min(len(response.pieces), LONGEST)
        if not length or len(response.entropies) < length:
            return Shown(response, Markup(escape(text(response.text))))
        needed = length * (2 if attacked and attacked.entropies else 1)
        if needed > self._room:
            return Shown(response, Markup(escape(text(response.text))), note="Tokens are left out: the page is full.")
        self._room -= needed
        selected = attacked.selected if attacked else ()
        painted = Markup("".join(_token(response, place, selected) for place in range(length)))
        note = f"{len(response.pieces) - length} more tokens are left out." if len(response.pieces) > length else ""
        if attacked is None:
            return Shown(response, painted, note=note)
        chosen = [piece for piece, flag in zip(response.pieces, selected, strict=False) if flag]
        changes, mean = None, None
        if len(attacked.entropies) >= length:
            changes = Markup("".join(_change(response, attacked, place) for place in range(length)))
            moved = [
                a - b for a, b, flag in zip(attacked.entropies, response.entropies, selected, strict=False) if flag
            ]
            mean = sum(moved) / len(moved) if moved else None
        return Shown(response, painted, changes, " · ".join(map(str.strip, chosen[:60])), mean, note)


def _token(response: ResponseSample, n: int, selected: tuple[bool, ...]) -> str:
    chosen = n < len(selected) and selected[n]
    shade = sum(response.entropies[n] >= limit for limit in SHADES)
    logp = f", log-probability {number(response.logps[n])}" if n < len(response.logps) else ""
    said = f"entropy {number(response.entropies[n])} nats{logp}{', chosen' if chosen else ''}"
    return _span(response.pieces[n], f"h{shade}{' c' if chosen else ''}", said)


def _change(response: ResponseSample, attacked: AttackedTokens, n: int) -> str:
    before, after = response.entropies[n], attacked.entropies[n]
    size = sum(abs(after - before) >= limit for limit in CHANGES)
    side = "u" if after > before else "d"
    chosen = n < len(attacked.selected) and attacked.selected[n]
    said = f"entropy {number(before)} to {number(after)} nats"
    return _span(response.pieces[n], f"{side}{size}{' c' if chosen else ''}", said)


def _span(piece: str, classes: str, title: str) -> str:
    return f'<span class="{classes}" title="{escape(title)}">{escape(text(piece)) or "∅"}</span>'
