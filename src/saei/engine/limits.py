"""What a run stops for by itself: too many groups with nothing to move, too many steps with nothing to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saei.errors import DataError, TrainingError
from saei.types import NOTHING_TO_MOVE

FEW = 64
"""Groups that are drawn before a run stops for their share."""


class NothingToMove:
    """Counts groups of all processes over a run that have nothing an attack could move.

    Args:
        most: Share of such groups above which a run stops.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._groups = 0.0
        self._unmovable = 0.0
        self._reasons: set[str] = set()

    def note(self, metrics: Mapping[str, float], groups: int) -> None:
        """Count a step's groups by the metrics of ``group_metrics``."""
        self._groups += groups
        for reason in NOTHING_TO_MOVE:
            share = metrics.get(f"untouched/{reason}", 0.0)
            self._unmovable += groups * share
            self._reasons |= {reason} if share else set()

    def problem(self) -> DataError | None:
        """Return why a run that intervenes so rarely should stop, None while it does often enough."""
        if self._groups < FEW or self._unmovable <= self._most * self._groups:
            return None
        if self._reasons <= {"no-image"}:
            rule = f"At most {self._most:.0%} of the examples may have no image, since an image is what is moved."
            lacking = "had none"
        else:
            rule = f"At most {self._most:.0%} of the examples may have nothing that the attack could move."
            lacking = f"had nothing ({', '.join(sorted(self._reasons))})"
        return DataError(
            rule,
            reason=f"{self._unmovable:.0f} of {self._groups:.0f} {lacking}; for these it was plain GRPO.",
            remedy="Train with --sampler clean, leave such examples out, or raise training.max_untouched, also to go "
            "on with --resume: a checkpoint was written.",
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"groups": self._groups, "unmovable": self._unmovable, "reasons": sorted(self._reasons)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, which may be one of version 0.1."""
        unmovable = state.get("unmovable", state.get("imageless"))
        self._groups, self._unmovable = float(state["groups"]), float(unmovable)
        self._reasons = set(state.get("reasons", ("no-image",) if self._unmovable else ()))


class EmptySteps:
    """Counts training steps in a row all of whose groups were dropped.

    Args:
        most: Number of such steps after which a run stops.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0

    def note(self, step: int, *, empty: bool) -> str | None:
        """Count a step; return what the user should know about it, None where it had something to train on."""
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
