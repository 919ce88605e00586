"""How small a difference a study can find."""

from __future__ import annotations

import math

from scipy.special import nctdtrinc
from scipy.stats import t

from saei.evaluation.statistics.intervals import CONFIDENCE, POWER


def detectable_effect(sd: float, count: int, hypotheses: int = 1) -> float:
    """Return the true mean of paired differences that a t-test finds with a probability of ``POWER``.

    By the noncentral t distribution; the probability of a significant result of the wrong sign is left out, since it is
    below 1e-5 for three pairs or more. With ``sd=1`` the result is in standard deviations of the differences.

    Args:
        sd: Standard deviation of the paired differences.
        count: How many pairs, which means bases.
        hypotheses: How many are tested together: the level is that of Holm's first step, which the smallest p value
            has to pass.

    Example:
        Twelve bases find .89 standard deviations in a single contrast; the first of three contrasts takes 1.08.

        >>> round(detectable_effect(1, 12), 2), round(detectable_effect(1, 12, hypotheses=3), 2)
        (0.89, 1.08)
    """
    if count < 2:
        return math.inf
    limit = t.ppf(1 - (1 - CONFIDENCE) / (2 * hypotheses), df=count - 1)
    return sd * float(nctdtrinc(count - 1, 1 - POWER, limit)) / math.sqrt(count)
