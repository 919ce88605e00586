"""Steps without a group to train on: each is said, and several in a row stop the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saei.errors import TrainingError


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
