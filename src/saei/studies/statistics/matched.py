"""Entropy at matched accuracy: whether a policy keeps its entropy, or has only learnt less.

A policy that learns slower has more entropy after the same number of steps. So runs are compared where they have the
same accuracy, wherever each of them reached it, by linear interpolation along its evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from saei.evaluation.metrics import mean


@dataclass(frozen=True, slots=True)
class AccuracyCurve:
    """A run's evaluations in the order of its steps, the one before training included.

    Attributes:
        accuracies: Of each evaluation; at least one.
        values: What is read off at a level of accuracy, such as the entropy in nats per token.

    Example:
        ``AccuracyCurve(accuracies=(0.2, 0.5, 0.7), values=(0.9, 0.6, 0.2))``
    """

    accuracies: Sequence[float]
    values: Sequence[float]

    def at(self, accuracy: float) -> float | None:
        """Return the value where the run first reaches an accuracy; None if it starts above or never reaches it.

        The first time counts because accuracy may fall again. Noisy evaluations reach a level too early, so compare
        runs that were evaluated on as many responses at the same steps.
        """
        if accuracy < self.accuracies[0]:
            return None
        points = list(zip(self.accuracies, self.values, strict=True))
        if accuracy == self.accuracies[0]:
            return points[0][1]
        for (before, start), (after, end) in pairwise(points):
            if before < accuracy <= after:
                return start + (end - start) * (accuracy - before) / (after - before)
        return None


def matched_difference(curve: AccuracyCurve, against: AccuracyCurve, levels: int = 21) -> float | None:
    """Return how much higher a curve's value is at equal accuracy, on average over the accuracies that both reach.

    Args:
        curve: Of one run.
        against: Of the run that is subtracted.
        levels: Accuracies at equal distances, from the higher of the two starts to the lower of the two peaks.

    Returns:
        The mean difference, or None if the runs have no accuracy in common.
    """
    low = max(curve.accuracies[0], against.accuracies[0])
    high = min(max(curve.accuracies), max(against.accuracies))
    if high < low:
        return None
    differences = []
    for level in np.linspace(low, high, levels).tolist():
        value, subtracted = curve.at(level), against.at(level)
        assert value is not None, f"{level} lies between start and peak of the curve"
        assert subtracted is not None, f"{level} lies between start and peak of the other curve"
        differences.append(value - subtracted)
    return mean(differences)
