"""The phrases by which a response to a generated task names its strategy: step by step, or at a glance."""

from __future__ import annotations

STEPS = "step by step"
GLANCE = "at a glance"

STRATEGIES = ("steps", "glance")


def strategy_of(text: str) -> str | None:
    """Return ``steps`` or ``glance`` for the phrase that comes first in a response, None without either."""
    places = {name: text.find(phrase) for name, phrase in zip(STRATEGIES, (STEPS, GLANCE), strict=True)}
    present = {name: place for name, place in places.items() if place >= 0}
    return min(present, key=present.__getitem__) if present else None
