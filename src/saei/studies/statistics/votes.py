"""What the frequencies of answers say: majority votes, and whether frequent answers are right as often.

The answers to one problem are a list of counts, one for each distinct answer, and whether each is right. Responses
without an answer count as one more answer, which is never right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def majority_at(k: int, counts: Sequence[int], right: Sequence[bool]) -> float:
    """Return maj@k: how likely the most frequent answer of k responses is right, ties being broken at random.

    It is the exact share over all choices of k out of the responses, without drawing any. Source: original.

    Args:
        k: Responses that vote.
        counts: How often each distinct answer occurs.
        right: Whether it is right.

    Raises:
        ValueError: If there are fewer responses than k.

    Example:
        Of three responses to one problem, two are right. Two votes agree on the right answer in one of three choices,
        and are tied in the others:

        >>> round(majority_at(2, [2, 1], [True, False]), 3)
        0.667
    """
    if not 1 <= k <= sum(counts):
        raise ValueError(f"{k} votes of {sum(counts)} responses.")
    winners = [i for i, (count, correct) in enumerate(zip(counts, right, strict=True)) if correct and count]
    return math.fsum(_wins(k, counts[i], [*counts[:i], *counts[i + 1 :]]) for i in winners) / math.comb(sum(counts), k)


def _wins(k: int, count: int, others: Sequence[int]) -> float:
    """Return in how many choices of k responses an answer is the most frequent one; a tie of m counts as 1/m."""
    return math.fsum(
        math.comb(count, votes) * _no_more(votes, k - votes, others) for votes in range(1, min(count, k) + 1)
    )


def _no_more(votes: int, left: int, others: Sequence[int]) -> float:
    """Return in how many choices of ``left`` responses no other answer has more votes; a tie of m counts as 1/m."""
    ways = np.zeros((left + 1, left // votes + 1))  # [responses chosen, answers that are tied]
    ways[0, 0] = 1
    for count in others:
        chosen = ways.copy()
        for more in range(1, min(count, votes - 1, left) + 1):
            chosen[more:] += math.comb(count, more) * ways[:-more]
        if votes <= min(count, left):
            chosen[votes:, 1:] += math.comb(count, votes) * ways[:-votes, :-1]
        ways = chosen
    return float(ways[left] @ (1 / np.arange(1, ways.shape[1] + 1)))


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure a policy is of its answer to one problem, and whether it is right.

    Attributes:
        share: Of responses with the most frequent answer.
        right: Whether that answer is right; the mean over several that are equally frequent.

    Example:
        Ten of sixteen responses agree, and are right: ``Confidence(share=0.625, right=1.0)``
    """

    share: float
    right: float


def confidence(counts: Sequence[int], right: Sequence[bool]) -> Confidence:
    """Return the confidence in the answer to one problem, from how often each of its answers occurs."""
    most = max(counts)
    top = [float(correct) for count, correct in zip(counts, right, strict=True) if count == most]
    return Confidence(most / sum(counts), math.fsum(top) / len(top))


def calibration_error(confidences: Sequence[Confidence], bins: int = 10) -> float:
    """Return the expected calibration error (arXiv 1706.04599) over problems.

    Problems are put into bins of equal width by their share; the error is the mean, over problems, of how far the mean
    share of their bin is from the mean of right answers. It is above 0 by chance even for a perfect policy, the more so
    the fewer problems a bin has: compare it at equal numbers of problems and responses only.

    Args:
        confidences: Of each problem; at least one.
        bins: How many; each but the first leaves out its lower end.
    """
    shares = np.array([problem.share for problem in confidences])
    gaps = shares - np.array([problem.right for problem in confidences])
    # Shares are fractions of response counts: rounding must not put 3/10 into the bin above .3.
    places = np.clip(np.ceil(shares * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(places, weights=gaps, minlength=bins)).sum() / len(gaps))
