"""How long a run still takes, and seconds as people read them."""

from __future__ import annotations

import time
from collections import deque
from statistics import fmean

NEWEST_STEPS, NEWEST_EVALUATIONS = 20, 3
"""How many of each an estimate is taken over: steps change their length as responses do."""


class Pace:
    """Estimates the time left from the newest steps and the newest evaluations, which take unequal time.

    Args:
        steps: Steps of the whole run.
        every: Steps between evaluations; there is one after the last step, too.
    """

    def __init__(self, steps: int, every: int) -> None:
        self._steps, self._every = steps, every
        self._done = 0
        self._last = time.monotonic()
        self._step_s: deque[float] = deque(maxlen=NEWEST_STEPS)
        self._evaluation_s: deque[float] = deque(maxlen=NEWEST_EVALUATIONS)

    def note(self, step: int, evaluation_s: float | None) -> None:
        """Note that a step is done.

        Args:
            step: Steps done; 0 for the evaluation before training.
            evaluation_s: Seconds of the evaluation that followed it, None without one.
        """
        now = time.monotonic()
        if evaluation_s is not None:
            self._evaluation_s.append(evaluation_s)
        if step > 0:
            self._step_s.append(max(0.0, now - self._last - (evaluation_s or 0.0)))
        self._done, self._last = step, now

    def left_s(self) -> float | None:
        """Return the seconds that the run still takes, None before its first step is done."""
        if not self._step_s:
            return None
        steps = self._steps - self._done
        # Every `every` steps, and after the last one, where that is not due anyway.
        evaluations = -(-self._steps // self._every) - self._done // self._every if steps else 0
        whole = steps * fmean(self._step_s) + evaluations * (fmean(self._evaluation_s) if self._evaluation_s else 0.0)
        return max(0.0, whole - (time.monotonic() - self._last))


def readable_s(seconds: float) -> str:
    """Return a length of time in its two largest units, such as ``48 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
