"""Reading the sets of runs that are compared from the folders of their evaluations."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saei.config.overrides import changed
from saei.errors import CheckpointError, ConfigError
from saei.evaluation.records import by_example
from saei.evaluation.statistics.comparison import EvaluatedRun, RunSet
from saei.evaluation.store import SETTINGS, EvaluationDir

OF_THE_POLICY = ("model", "seed")
"""Settings in which the evaluations of a comparison may differ."""


def read_run_sets(patterns: Sequence[str]) -> tuple[list[RunSet], dict[str, Any]]:
    """Return one set of runs per pattern of folders, such as ``runs/eval/grpo-*``, and the settings that all share.

    Raises:
        ConfigError: If a pattern fits no evaluation, or evaluations differ in more than the policy.
        CheckpointError: If one is not complete.
    """
    if len(patterns) < 2:
        raise ConfigError(
            "--compare takes two folders or patterns or more; the others are compared with the first.",
            reason=f"Got {len(patterns)}.",
            remedy='For example saei eval --compare "runs/eval/grpo-*" "runs/eval/saei-*".',
        )
    twice = next((pattern for pattern in patterns if patterns.count(pattern) > 1), None)
    if twice is not None:
        raise ConfigError(
            "Each folder or pattern is given once.",
            reason=f"'{twice}' is given twice.",
            remedy="Leave one of them out.",
        )
    run_sets: list[RunSet] = []
    common: dict[str, Any] = {}
    for pattern in patterns:
        runs = []
        for folder in _folders(pattern):
            settings = folder.settings()
            folder.result()  # raises if the evaluation is not complete
            comparable = {key: value for key, value in settings.items() if key not in OF_THE_POLICY}
            common = common or comparable
            different = changed(common, comparable)
            if different:
                raise ConfigError(
                    "Evaluations that are compared differ in nothing but the policy.",
                    reason=f"{folder.path} has other {', '.join(different)} than the first.",
                    remedy="Evaluate with the same settings, or leave it out.",
                )
            model = settings.get("model")
            if not isinstance(model, dict) or "base" not in model:
                raise CheckpointError(
                    "An evaluation's settings name its model and the base of it.",
                    reason=f"{folder.path / SETTINGS} does not.",
                    remedy="Evaluate anew, into another --output.",
                )
            runs.append(EvaluatedRun(str(folder.path), str(model["base"]), by_example(folder.records())))
        run_sets.append(RunSet(pattern, runs))
    return run_sets, common


def _folders(pattern: str) -> list[EvaluationDir]:
    paths = [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern)))]
    folders = [EvaluationDir(path) for path in paths if (path / SETTINGS).is_file()]
    if not folders:
        raise ConfigError(
            "--compare takes folders of evaluations, or quoted patterns of several.",
            reason=f"'{pattern}' matches {len(paths)} paths, none of them with {SETTINGS}.",
            remedy="Look below runs/eval, or evaluate with `saei eval --benchmark`.",
        )
    return folders
