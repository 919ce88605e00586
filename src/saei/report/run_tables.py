"""A run's folder as data frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from saei.engine.best import BEST
from saei.engine.checkpoint import complete_in
from saei.errors import CheckpointError, ConfigError
from saei.runtime.run_dir import RunDir
from saei.runtime.samples import GroupSample, ResponseSample, ViewSample

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
        samples: A row per response that was kept for people to look at, its group by ``step``, ``source`` and
            ``group``. Values of tokens are tuples; runs by earlier versions have none.
        views: A row per view that an intervention made of these groups. Pictures are PNG.
        problems: Which files of samples could not be read, and why.
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
    problems: tuple[str, ...] = ()


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
    groups, problems = run.samples()
    return RunTables(
        run.path,
        config,
        metrics,
        samples=pandas.DataFrame([row for group in groups for row in _sample_rows(group)]),
        views=pandas.DataFrame([row for group in groups for row in _view_rows(group)]),
        checkpoints=tuple(complete_in(run.checkpoints)),
        best=_best(run.path),
        problems=tuple(problems),
    )


def _place(group: GroupSample) -> dict[str, Any]:
    return {"step": group.step, "source": group.source, "group": group.number, "example": group.example}


def _sample_rows(group: GroupSample) -> Iterator[dict[str, Any]]:
    """Yield a row per response: what its view asks, and the answer that it is graded against."""
    for response in group.responses:
        view, graded_for = group.views[response.view], group.views[response.update_view]
        asked = {"question": view.question, "answer": graded_for.answer, "origin": view.origin}
        yield _place(group) | asked | {name: getattr(response, name) for name in ResponseSample.__slots__}


def _view_rows(group: GroupSample) -> Iterator[dict[str, Any]]:
    for number, view in enumerate(group.views[1:], start=1):
        if view.seed is not None:
            row = _place(group) | {"view": number} | {name: getattr(view, name) for name in ViewSample.__slots__}
            distances = {name: asdict(distance) for name, distance in view.distances.items()}
            yield row | {"distances": distances, "tokens": tuple(map(asdict, view.tokens))}


def _best(run: Path) -> Path | None:
    """Return the checkpoint that a run names as its best, None if there is none any more."""
    try:
        folder = run / str(json.loads((run / BEST).read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or a damaged one
        return None
    return folder if folder.is_dir() else None
