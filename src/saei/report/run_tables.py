"""A run's folder as data frames."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from saei.engine.best import BEST
from saei.engine.checkpoint import complete_in
from saei.errors import CheckpointError, ConfigError
from saei.runtime.files import read_jsonl
from saei.runtime.run_dir import RunDir

if TYPE_CHECKING:
    import pandas

    DataFrame: TypeAlias = pandas.DataFrame


@dataclass(frozen=True, eq=False, slots=True)
class RunTables:
    """What a run has written, whether it has ended or not.

    Attributes:
        path: Its folder.
        config: Its configuration as plain data; nothing that it names is imported.
        metrics: A row per step, with the step as index and a column per metric; NaN where a step has no such metric.
        samples: A row per response that was kept for people to look at.
        views: A row per view that an intervention made in these steps.
        checkpoints: Its checkpoints, the newest last; each is a model folder.
        best: The checkpoint that ``output.keep_best`` kept, None without one.
    """

    path: Path
    config: Mapping[str, Any]
    metrics: DataFrame
    samples: DataFrame
    views: DataFrame
    checkpoints: tuple[Path, ...]
    best: Path | None


def read_run(path: str | Path) -> RunTables:
    """Return a run as data frames of pandas.

    Args:
        path: The run's folder.

    Raises:
        CheckpointError: If the folder holds no run.
        ConfigError: If pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "read_run gives data frames of pandas.", reason=f"{error}.", remedy="pip install pandas"
        ) from error
    run = RunDir(Path(path).expanduser())
    if not (run.path / "config.yaml").is_file():
        raise CheckpointError(
            "read_run takes the folder of a run, with its config.yaml.",
            reason=f"{run.path} has none.",
            remedy="Give one of the folders in your output folder.",
        )
    config, _ = run.read()
    # Null stands for a number that was not finite.
    lines = [{name: math.nan if value is None else value for name, value in line.items()} for line in run.metrics()]
    metrics = pandas.DataFrame(lines, columns=None if lines else ["step"]).set_index("step")
    samples, views = (pandas.DataFrame(read_jsonl(run.path / f"{name}.jsonl")) for name in ("samples", "views"))
    return RunTables(run.path, config, metrics, samples, views, tuple(complete_in(run.checkpoints)), _best(run.path))


def _best(run: Path) -> Path | None:
    """Return the checkpoint that a run names as its best, None if there is none any more."""
    try:
        folder = run / str(json.loads((run / BEST).read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or a damaged one
        return None
    return folder if folder.is_dir() else None
