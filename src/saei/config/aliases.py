"""Short names of settings."""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, str] = {
    "intervention": "sampler.intervention",
    "selector": "sampler.intervention.selector",
    "criterion": "sampler.intervention.criterion",
    "attack": "sampler.intervention.attack",
    "strength": "sampler.intervention.strength",
    "gate": "sampler.intervention.gate",
    "guard": "sampler.intervention.guard",
    "advantage": "objective.advantage",
}
"""First words of paths, in files and in ``--set``, that stand for a longer path."""
