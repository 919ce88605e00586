"""Why a run stops by itself: too many groups with nothing to move, or too many steps without a group to train on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from saei.engine.update_objective import USED_TOKENS
from saei.errors import DataError, TrainingError

FEW = 64
"""Groups that are drawn before a run stops for their share."""


class NothingToMove:
    """Counts groups of all processes over a run that have nothing an attack, or the control in its place, could move.

    Args:
        most: Share of such groups above which a run stops.
        reasons: What the run's surfaces and controls may say of a view that lacks them.
    """

    def __init__(self, most: float, reasons: Collection[str] = ("no-image",)) -> None:
        self._most = most
        self._all_reasons = reasons
        self._groups = 0.0
        self._unmovable = 0.0
        self._reasons: set[str] = set()

    def count(self, metrics: Mapping[str, float], groups: int) -> None:
        """Count a step's groups by the metrics of ``group_metrics``."""
        self._groups += groups
        for reason in self._all_reasons:
            share = metrics.get(f"untouched/{reason}", 0.0)
            self._unmovable += groups * share
            self._reasons |= {reason} if share else set()

    def problem(self) -> DataError | None:
        """Return why the run should stop if too many groups have nothing to move, else None."""
        if self._groups < FEW or self._unmovable <= self._most * self._groups:
            return None
        return DataError(
            self._rule(self._reasons),
            reason=f"{self._unmovable:.0f} of {self._groups:.0f} {_lacked(self._reasons)}; for these it was plain "
            "GRPO.",
            remedy="Train with --sampler clean, leave such examples out, or raise training.max_untouched, also to go "
            "on with --resume: a checkpoint was written.",
        )

    def check(self, reasons: Sequence[str | None]) -> None:
        """Refuse a run none of whose first examples has anything to move.

        Args:
            reasons: For each example why it has nothing, None if it has something.

        Raises:
            DataError: If all have a reason, unless all may have one.
        """
        lacking = {reason for reason in reasons if reason is not None}
        if self._most < 1 and lacking and None not in reasons:
            raise DataError(
                self._rule(lacking),
                reason=f"Of the first {len(reasons)}, all {_lacked(lacking)}.",
                remedy="Train with --sampler clean, move something else (intervention.attack, intervention.surfaces), "
                "or set training.max_untouched to 1.",
            )

    def _rule(self, reasons: Collection[str]) -> str:
        if set(reasons) <= {"no-image"}:
            return f"At most {self._most:.0%} of the examples may have no image, since an image is what is moved."
        return (
            f"At most {self._most:.0%} of the examples may have nothing that the attack could move, or the control in "
            "its place."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"groups": self._groups, "unmovable": self._unmovable, "reasons": sorted(self._reasons)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, which may be one of version 0.1."""
        unmovable = state.get("unmovable", state.get("imageless"))
        self._groups, self._unmovable = float(state["groups"]), float(unmovable)
        self._reasons = set(state.get("reasons", ("no-image",) if self._unmovable else ()))


def _lacked(reasons: Collection[str]) -> str:
    return "had none" if set(reasons) <= {"no-image"} else f"had nothing ({', '.join(sorted(reasons))})"


class WeightsApart:
    """Tells once of a run, and again where it is resumed, that its weights leave no token to the policy loss.

    Args:
        names: The objective's weights, by the names that they are logged under.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._told = False

    def note(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Return a note for the user if a step had no such token, unless there was one before.

        Args:
            step: The number of the step.
            metrics: Those of its update.
        """
        if self._told or metrics.get(USED_TOKENS) != 0:
            return None
        self._told = True
        several = len(self._names) > 1
        return (
            f"Step {step} had no token for the policy loss: the {'weights' if several else 'weight'} "
            f"{', '.join(self._names)} {'keep none in common' if several else 'keeps none'}. In such steps the policy "
            "learns from terms alone."
        )


class EmptySteps:
    """Counts training steps in a row all of whose groups were dropped.

    Args:
        most: Number of such steps after which a run stops.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0

    def count(self, step: int, *, empty: bool) -> str | None:
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
