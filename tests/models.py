"""Tiny models with random weights, as folders that transformers loads."""

from __future__ import annotations

from pathlib import Path

from saei.data.templates import ThinkBoxed
from saei.diagnostics.tiny import tiny_parts
from saei.diagnostics.zoo import FAMILIES
from saei.policy import Policy


def tiny_folder(family: str, folder: Path) -> Path:
    """Save a tiny model of a family with its processor."""
    Policy(tiny_parts(FAMILIES[family]), ThinkBoxed()).save(folder)
    return folder
