"""How many groups had no image that an intervention could move, and when a run stops for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saei.errors import DataError

FEW = 64
"""Groups that are drawn before a run stops for their share."""

REASON = "no-image"


class Imageless:
    """Counts groups of all processes over a run.

    Args:
        most: Share of groups without an image above which a run stops.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._groups = 0.0
        self._imageless = 0.0

    def note(self, metrics: Mapping[str, float], groups: int) -> None:
        """Count a step's groups by the metrics of ``group_metrics``."""
        self._groups += groups
        self._imageless += groups * metrics.get(f"untouched/{REASON}", 0.0)

    def problem(self) -> DataError | None:
        """Return why a run that intervenes so rarely should stop, None while it does often enough."""
        if self._groups < FEW or self._imageless <= self._most * self._groups:
            return None
        return DataError(
            f"At most {self._most:.0%} of the examples may have no image, since an image is what is moved.",
            reason=f"{self._imageless:.0f} of {self._groups:.0f} had none; for these it was plain GRPO.",
            remedy="Train with --sampler clean, leave such examples out, or raise training.max_untouched, also to go "
            "on with --resume: a checkpoint was written.",
        )

    def state_dict(self) -> dict[str, float]:
        """Return the counts."""
        return {"groups": self._groups, "imageless": self._imageless}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._groups, self._imageless = float(state["groups"]), float(state["imageless"])
