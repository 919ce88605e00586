"""What an intervention made of one group's view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from saei.attacks.base import Point
from saei.interventions.group_criterion import CriterionTokens
from saei.types import Distance, View, ViewRecord


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What became of one group.

    Attributes:
        view: The view to draw the remaining responses from: the clean one if the group was left alone.
        untouched: Why it was left alone: ``no-image``, ``empty`` (nothing to select) or what gate or control says; else
            None.
        metrics: Entropy summary of the selection, the criterion where the attack began, how far it moved, what the
            control logs, and where it is measured the criterion afterwards and the divergence of the views.
        record: How the view was made, None for the clean one.
        point: The moved blocks of the view, none for the clean one.
        tokens: What the attack's criterion was taken over, None for the clean view.
    """

    view: View
    untouched: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: ViewRecord | None = None
    point: Point = ()
    tokens: CriterionTokens | None = None


def distance_metrics(distances: Mapping[str, Distance], surfaces: int) -> dict[str, float]:
    """Return how far a view has moved; where an intervention has several surfaces, under their names."""
    metrics: dict[str, float] = {}
    for surface, distance in distances.items():
        prefix = f"{surface}/" if surfaces > 1 else ""
        metrics |= {f"{prefix}moved": distance.share, f"{prefix}largest_change": distance.largest}
    return metrics
