"""Reading the sides of a comparison from the folders of evaluations."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saei.config.overrides import changed
from saei.errors import CheckpointError, ConfigError
from saei.evaluation.records import items
from saei.evaluation.statistics.comparison import Evaluated, Side
from saei.evaluation.store import SETTINGS, EvaluationDir

OF_THE_POLICY = ("model", "seed")
"""Settings in which the evaluations of a comparison may differ."""


def read_sides(patterns: Sequence[str]) -> tuple[list[Side], dict[str, Any]]:
    """Return one side per pattern of folders, such as ``runs/eval/grpo-*``, and the settings that all share.

    Raises:
        ConfigError: If a pattern fits no evaluation, or evaluations differ in more than the policy.
        CheckpointError: If one is not complete.
    """
    if len(patterns) < 2:
        raise ConfigError(
            "--compare takes two sides or more; the first is what the others are compared with.",
            reason=f"Got {len(patterns)}.",
            remedy='For example saei eval --compare "runs/eval/grpo-*" "runs/eval/saei-*".',
        )
    twice = next((pattern for pattern in patterns if patterns.count(pattern) > 1), None)
    if twice is not None:
        raise ConfigError(
            "A side is compared with others.", reason=f"'{twice}' is given twice.", remedy="Leave one of them out."
        )
    sides: list[Side] = []
    common: dict[str, Any] = {}
    for pattern in patterns:
        runs = []
        for folder in _folders(pattern):
            settings = folder.settings()
            folder.result()  # which is there once all is answered
            mine = {key: value for key, value in settings.items() if key not in OF_THE_POLICY}
            common = common or mine
            different = changed(common, mine)
            if different:
                raise ConfigError(
                    "Evaluations are compared that differ in nothing but the policy.",
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
            runs.append(Evaluated(str(folder.path), str(model["base"]), items(folder.records())))
        sides.append(Side(pattern, runs))
    return sides, common


def _folders(pattern: str) -> list[EvaluationDir]:
    found = [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern)))]
    folders = [EvaluationDir(path) for path in found if (path / SETTINGS).is_file()]
    if not folders:
        raise ConfigError(
            "A side of a comparison is a folder of an evaluation, or a quoted pattern of several.",
            reason=f"'{pattern}' fits {len(found)} paths, none of them with {SETTINGS}.",
            remedy="Look below runs/eval, or evaluate with `saei eval --benchmark`.",
        )
    return folders
