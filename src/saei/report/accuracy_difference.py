"""The difference between two runs at their last evaluations, paired by example where both kept their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saei.report.page.folder import RunFolder, accuracy_interval, setting

if TYPE_CHECKING:
    from saei.evaluation.statistics.intervals import Interval

ANOTHER_TASK = "The settings of their tasks differ"
NOT_KEPT = "Not both runs kept which held-out examples they answered rightly, as runs by an older version did not"
NONE_SHARED = "They answered no example in common"


@dataclass(frozen=True, slots=True)
class RunDifference:
    """The held-out accuracy of the second run minus that of the first.

    Attributes:
        steps: Of the evaluations that are compared.
        interval: The difference with its 95 % interval.
        examples: Number of examples by which it is paired, None if it is not.
        test: How the interval was computed.
        unpaired: Why it is not paired; empty if it is.
    """

    steps: tuple[int, int]
    interval: Interval
    examples: int | None
    test: str
    unpaired: str = ""


def last_difference(folders: Sequence[RunFolder]) -> RunDifference | None:
    """Return the difference between two runs at their last evaluations, None where too little is known of one."""
    from saei.evaluation.held_out_answers import read_answers
    from saei.evaluation.statistics.comparison import EvaluatedRun, RunSet, contrasts
    from saei.evaluation.statistics.intervals import difference_interval

    if not all(folder.evaluated for folder in folders):
        return None
    last = [folder.evaluated[-1] for folder in folders]
    steps = (int(last[0]["step"]), int(last[1]["step"]))
    answers = [read_answers(folder.path, step) for folder, step in zip(folders, steps, strict=True)]
    shared = {example.number for example in answers[0]} & {example.number for example in answers[1]}
    tasks = [setting(folder.config, "task") for folder in folders]
    unpaired = ANOTHER_TASK if tasks[0] != tasks[1] else NOT_KEPT if not all(answers) else ""
    unpaired = unpaired or ("" if shared else NONE_SHARED)
    if not unpaired:
        first, second = (
            RunSet(folder.name, [EvaluatedRun(folder.name, "", examples)])
            for folder, examples in zip(folders, answers, strict=True)
        )
        (contrast,) = contrasts(first, [second])
        return RunDifference(steps, contrast.difference, contrast.count, contrast.test)
    intervals = [accuracy_interval(folder, line) for folder, line in zip(folders, last, strict=True)]
    if intervals[0] is None or intervals[1] is None:
        return None
    change = difference_interval(intervals[0], intervals[1])
    return RunDifference(steps, change, None, "recovered variances", unpaired)
