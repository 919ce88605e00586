"""Responses on a page: their tokens shaded by entropy, the chosen ones underlined, and what the attack changed."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from saei.report.page.html import number, text
from saei.report.tokens import change_level, shade_level
from saei.runtime.samples import AttackedTokens, GroupSample, ResponseSample

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
