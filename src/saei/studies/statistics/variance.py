"""Variance components of a pilot: how far bases, seeds, and bases within an arm scatter.

The model is ``value = arm + base + arm x base + seed``, with fixed arms and the rest random and independent. The
variance of a contrast of two arms consists of the interaction and the seeds only: what makes a base better in all arms
cancels in the differences by base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from saei.errors import SaeiError
from saei.evaluation.statistics.intervals import CONFIDENCE, Interval
from saei.studies.statistics.contrasts import RunKey
from saei.studies.statistics.power import detectable_effect


@dataclass(frozen=True, slots=True)
class Component:
    """One source of variance: a row of the table that a pilot publishes.

    Attributes:
        source: ``between bases``, ``arm by base`` or ``between seeds``.
        variance: The unbiased estimate, which is below 0 by chance where the true one is small.
        mean_square: The mean square that carries it.
        freedom: The degrees of freedom of the mean square.

    Example:
        ``Component("between seeds", variance=0.0016, mean_square=0.0016, freedom=16)``
    """

    source: str
    variance: float
    mean_square: float
    freedom: int

    @property
    def sd(self) -> float:
        """The standard deviation; 0 if the estimate of the variance is negative."""
        return math.sqrt(max(0.0, self.variance))


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """The components of a balanced pilot.

    Attributes:
        arms: Number of arms.
        bases: Number of bases.
        seeds: Number of seeds of each arm on each base.
        between_bases: What a base shares over all arms.
        arm_by_base: How differently an arm acts on different bases.
        between_seeds: What is left between the runs of one arm on one base.

    Example:
        A pilot with ``arms=2, bases=4, seeds=3`` has 3, 3 and 16 degrees of freedom.
    """

    arms: int
    bases: int
    seeds: int
    between_bases: Component
    arm_by_base: Component
    between_seeds: Component

    def difference_sd(self, seeds: int = 1) -> Interval:
        """Return the standard deviation of the difference of two arms on one base, with its 95 % interval.

        The variance is ``2 (arm by base + between seeds / seeds)``, as a sum of mean squares. The interval is that of
        Graybill and Wang (1980), exact for as many seeds as the pilot has; Satterthwaite's covers too little for so few
        bases. For more seeds one mean square is subtracted and there is no such interval: it is NaN.

        Args:
            seeds: How many each arm has on each base.
        """
        interaction, error = self.arm_by_base, self.between_seeds
        parts = [
            (2 * interaction.mean_square / self.seeds, interaction.freedom),
            (2 * error.mean_square * (1 / seeds - 1 / self.seeds), error.freedom),
        ]
        variance = sum(part for part, _ in parts)
        if seeds > self.seeds:
            return Interval(math.sqrt(max(0.0, variance)), math.nan, math.nan)
        if variance == 0:
            return Interval(0.0, 0.0, math.inf)
        tail = (1 - CONFIDENCE) / 2
        down = [part * (1 - freedom / float(chi2.ppf(1 - tail, freedom))) for part, freedom in parts]
        up = [part * (freedom / float(chi2.ppf(tail, freedom)) - 1) for part, freedom in parts]
        ends = variance - math.hypot(*down), variance + math.hypot(*up)
        return Interval(*(math.sqrt(max(0.0, value)) for value in (variance, *ends)))

    def detectable(self, bases: int, seeds: int = 1, hypotheses: int = 1) -> float:
        """Return the difference that a study of this size finds with a probability of 80 %, by the pilot's estimate."""
        return detectable_effect(self.difference_sd(seeds).mean, bases, hypotheses)


def variance_components(table: Mapping[RunKey, Mapping[str, float]], measure: str) -> VarianceComponents:
    """Return the components by analysis of variance (the method of moments).

    Where all estimates are positive they equal those of restricted maximum likelihood.

    Args:
        table: The measures of each run.
        measure: Which of them.

    Raises:
        SaeiError: If the pilot is not balanced: each arm on each base with as many seeds, two or more of each.
    """
    values = {key: measures[measure] for key, measures in sorted(table.items()) if measure in measures}
    arms, bases = sorted({key.arm for key in values}), sorted({key.base for key in values})
    cells = [[[value for key, value in values.items() if key[:2] == (arm, base)] for base in bases] for arm in arms]
    counts = {len(cell) for row in cells for cell in row}
    if min(len(arms), len(bases)) < 2 or len(counts) != 1 or min(counts) < 2:
        raise SaeiError(
            "Variance components need each arm on each base with as many seeds, two or more of each.",
            reason=f"{measure} has {len(arms)} arms, {len(bases)} bases and {sorted(counts)} seeds.",
            remedy="Finish the pilot's runs, or leave out what is not complete.",
        )
    values_ABS = np.array(cells)
    seeds = values_ABS.shape[2]
    cell_AB = values_ABS.mean(2)
    base_B, arm_A, overall = cell_AB.mean(0), cell_AB.mean(1), cell_AB.mean()

    a, b = len(arms), len(bases)
    interaction_AB = cell_AB - base_B - arm_A[:, None] + overall
    of_bases = a * seeds * float(((base_B - overall) ** 2).sum()) / (b - 1)
    of_interaction = seeds * float((interaction_AB**2).sum()) / ((a - 1) * (b - 1))
    of_seeds = float(((values_ABS - cell_AB[..., None]) ** 2).sum()) / (a * b * (seeds - 1))
    return VarianceComponents(
        arms=a,
        bases=b,
        seeds=seeds,
        between_bases=Component("between bases", (of_bases - of_interaction) / (a * seeds), of_bases, b - 1),
        arm_by_base=Component("arm by base", (of_interaction - of_seeds) / seeds, of_interaction, (a - 1) * (b - 1)),
        between_seeds=Component("between seeds", of_seeds, of_seeds, a * b * (seeds - 1)),
    )
