"""Why a run stops by itself: too many groups without an image, or too many steps without a group to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saei.errors import DataError, TrainingError

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
        """Return why the run should stop if too many groups have no image, else None."""
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


class EmptySteps:
    """Counts training steps in a row all of whose groups were dropped.

    Args:
        most: Number of such steps after which a run stops.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0

    def note(self, step: int, *, empty: bool) -> str | None:
        """Count a step; return a note for the user if it had nothing to train on, else None."""
        self._in_a_row = self._in_a_row + 1 if empty else 0
        return f"Step {step} had nothing to train on: all of its groups were dropped." if empty else None

    def problem(self) -> TrainingError | None:
        """Return why the run should stop, None while it should not."""
        if self._in_a_row < self._most:
            return None
        return TrainingError(
            "A step needs a group to train on.",
            reason=f"All groups of the last {self._in_a_row} steps were dropped by the sampler or by a guard; "
            "`dynamic` drops those whose responses are all right or all wrong.",
            remedy="See train/all_right and train/all_wrong: take harder or easier examples, or another sampler, in a "
            "new run from the checkpoint that was written. To go on as it is: --resume with a larger "
            "training.max_empty_steps.",
        )

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._in_a_row = int(state["in_a_row"])
