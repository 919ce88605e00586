"""The best checkpoint of a run by an evaluation's metric, which is kept besides the newest ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saei.engine.checkpoint import folder_of
from saei.errors import ConfigError, nearest
from saei.runtime.files import disk_errors, write_whole
from saei.runtime.run_dir import RunDir

BEST = "best.json"
"""The file of a run that names its best checkpoint."""


class Best:
    """The highest value of a metric so far; the first of equal ones counts.

    Args:
        metric: Full name, such as ``eval/accuracy``; None keeps no best checkpoint.

    Attributes:
        step: Steps done there, None before the first evaluation after a step.
        value: The metric there.
    """

    def __init__(self, metric: str | None) -> None:
        self._metric = metric
        self.step: int | None = None
        self.value = -math.inf

    def update(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Compare an evaluation with the best so far, and return whether it is better.

        The policy before training has no checkpoint, and is never the best.

        Args:
            step: Steps done.
            metrics: The evaluation's.

        Raises:
            ConfigError: If there is no such metric.
        """
        if self._metric is None:
            return False
        if self._metric not in metrics:
            evaluated = [name for name in metrics if name.startswith(("eval/", "probe/"))]
            raise ConfigError(
                "output.keep_best is a metric of the evaluations.",
                reason=f"There is no '{self._metric}'.",
                remedy=nearest(self._metric, evaluated),
            )
        if step == 0 or not metrics[self._metric] > self.value:
            return False
        self.step, self.value = step, metrics[self._metric]
        return True

    def checkpoint(self, run: RunDir) -> Path | None:
        """Return the folder of the best checkpoint, None if there is none yet."""
        return None if self.step is None else folder_of(run.checkpoints, self.step)

    def write(self, run: RunDir) -> None:
        """Name the best checkpoint in the run's folder.

        Raises:
            CheckpointError: If the disk refuses.
        """
        checkpoint = self.checkpoint(run)
        if checkpoint is None:
            return
        named = {
            "metric": self._metric,
            "value": self.value,
            "step": self.step,
            "checkpoint": str(checkpoint.relative_to(run.path)),
        }
        file = run.path / BEST
        with disk_errors("A run names its best checkpoint.", file, "Free some space and go on with --resume."):
            write_whole(file, json.dumps(named, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return metric, value and step."""
        return {"metric": self._metric, "value": self.value, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; one of another metric says nothing about this one."""
        if state.get("metric") == self._metric:
            self.value, self.step = float(state["value"]), state["step"]
