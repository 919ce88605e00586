"""The runs of a study by arm, once nothing is left to choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saei.errors import ConfigError, shown
from saei.report.compare import read_curve
from saei.report.run_groups import RunGroup
from saei.studies.record import folder_of, is_recorded

if TYPE_CHECKING:
    from saei.studies.execution import Execution
    from saei.studies.outcome import Outcome


def arm_groups(execution: Execution, outcome: Outcome) -> list[RunGroup]:
    """Return the recorded runs of each arm, in the order of the file.

    Args:
        execution: The study.
        outcome: How far it is.

    Raises:
        ConfigError: If runs of a declared base have not ended: who sees some of them could still choose when to stop.
    """
    study, keep = execution.read.study, execution.places.keep
    if not outcome.complete:
        raise ConfigError(
            "Arms are drawn when every run of every declared base has ended.",
            reason=f"Of {outcome.runs} runs of '{shown(study.name)}' {outcome.recorded} are recorded in {keep}, "
            f"{outcome.failed} failed.",
            remedy=f"`saei study run {shown(study.name)}` does the others; --quick looks at a quick run.",
        )
    groups = []
    for arm in study.arms:
        runs = [run for run in execution.runs() if run.arm == arm and is_recorded(run, keep)]
        curves = [read_curve(arm, folder_of(run, keep)) for run in runs]
        if curves:
            groups.append(RunGroup(curves[0].label, tuple(run.base.label for run in runs), tuple(curves)))
    return groups
