"""Telling by its words which of two ways a response took: step by step, or at a glance."""

from __future__ import annotations

STEPS = "step by step"
GLANCE = "at a glance"


WAYS = ("steps", "glance")


def way_of(text: str) -> str | None:
    """Return ``steps`` or ``glance`` for the phrase that comes first in a response, None without either."""
    found = {way: text.find(phrase) for way, phrase in zip(WAYS, (STEPS, GLANCE), strict=True)}
    present = {way: place for way, place in found.items() if place >= 0}
    return min(present, key=present.__getitem__) if present else None
