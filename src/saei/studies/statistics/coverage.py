"""What a policy can still solve: distinct correct solutions, and problems gained and lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saei.evaluation.statistics.intervals import Interval, mcnemar
from saei.evaluation.statistics.pass_at import pass_at


def rarefied(counts: Sequence[int], draws: int, total: int | None = None) -> float:
    """Return how many distinct solutions are expected among fewer responses than there are (Hurlbert 1971).

    More correct responses contain more distinct solutions, so policies are compared at the same number of draws.
    Rarefied among all responses, accuracy counts too: with one class of solutions it is pass@k. Rarefied among the
    correct ones, only their variety counts.

    Args:
        counts: How often each distinct correct solution of one problem occurs.
        draws: To how many responses it is reduced.
        total: The number of responses drawn from; by default the correct ones, ``sum(counts)``.

    Raises:
        ValueError: If there are fewer responses than draws, or more correct ones than responses.

    Example:
        Of four correct responses, three take the same path. Two of them have an even chance to show both paths:

        >>> rarefied([3, 1], draws=2)
        1.5
    """
    total = sum(counts) if total is None else total
    if not sum(counts) <= total or not 0 <= draws <= total:
        raise ValueError(f"{draws} draws from {total} responses with {sum(counts)} correct ones.")
    return sum(pass_at(draws, total, count) for count in counts)


@dataclass(frozen=True, slots=True)
class SolvedProblems:
    """Which problems a trained policy solves, against its base.

    Attributes:
        gained: Problems that only the trained policy solves.
        lost: Problems that only the base solves.
        both: Problems that both solve.
        neither: Problems that neither solves.
        difference: The share of problems solved, trained minus base, with its 95 % interval.
        p: Of McNemar's exact test of as many gained as lost.

    Example:
        ``SolvedProblems(gained=9, lost=2, both=80, neither=37, difference=Interval(0.055, -0.005, 0.145), p=0.065)``
    """

    gained: int
    lost: int
    both: int
    neither: int
    difference: Interval
    p: float


def gained_and_lost(base: Sequence[int], trained: Sequence[int], least: int = 1) -> SolvedProblems:
    """Compare the problems that two policies solve with as many responses each.

    The test takes problems as independent, so it says something about these two policies, not about the method that
    trained one of them; across bases, contrasts of the shares gained and lost do. With few responses a problem changes
    sides by chance, in both directions.

    Args:
        base: Correct responses of the base to each problem; at least one problem.
        trained: Those of the trained policy, in the same order.
        least: How many correct responses count as solved.
    """
    pairs = [(before >= least, after >= least) for before, after in zip(base, trained, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    difference, p = mcnemar(gained, lost, len(pairs))
    return SolvedProblems(gained, lost, pairs.count((True, True)), pairs.count((False, False)), difference, p)
