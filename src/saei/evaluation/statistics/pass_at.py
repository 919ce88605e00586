"""pass@k: how likely one of k responses is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from saei.errors import ConfigError

RULE = "at least twice as many responses as k (n >= 2k), else the estimate is that of a few examples"


def pass_at(k: int, n: int, right: int) -> float:
    """Return the share of all choices of k out of n responses in which one is right, ``1 - C(n - c, k) / C(n, k)``.

    It is an unbiased estimate of pass@k (arXiv 2107.03374).
    """
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def chosen_ks(requested: Sequence[int], n: int) -> tuple[int, ...]:
    """Return the k to report for n responses: those asked for, by default the powers of two up to n/2.

    Raises:
        ConfigError: If one of them is too large for n.
    """
    ks = sorted(set(requested)) or [2**power for power in range(n.bit_length()) if 2 ** (power + 1) <= n]
    if ks and not (ks[0] >= 1 and 2 * ks[-1] <= n):
        raise ConfigError(
            f"pass@k takes {RULE}.",
            reason=f"Asked for pass@{ks[0] if ks[0] < 1 else ks[-1]} of {n} responses.",
            remedy=f"Give --responses {2 * ks[-1]}, or a smaller k." if ks[0] >= 1 else "The smallest k is 1.",
        )
    return tuple(ks)
