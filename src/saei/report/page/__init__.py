"""Pages: a run, an evaluation, two of either, or a study as one HTML file that opens from disk and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saei.errors import ConfigError
from saei.runtime.files import disk_errors, write_whole

if TYPE_CHECKING:
    from saei.studies.execution import Execution

VIEW = "view.html"


def write_page(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page of a run or an evaluation, or of two, and return its file.

    Args:
        folders: One folder, or two of the same kind.
        output: The file; None for ``view.html`` in the folder, or for two for ``view-with-<second>.html`` in the first.

    Raises:
        SaeiError: If a folder holds neither, or the file cannot be written.
    """
    paths = [folder.expanduser() for folder in folders]
    if len(paths) > 2:
        raise ConfigError(
            "A page shows one run or evaluation, or two side by side.",
            reason=f"Got {len(paths)} folders.",
            remedy="Give two of them.",
        )
    page = _page(paths)
    if output is None:
        name = VIEW if len(paths) == 1 else f"view-with-{paths[1].resolve().name}.html"
        output = paths[0] / name
    return _written(page, output)


def write_study_page(execution: Execution, output: Path | None = None) -> Path:
    """Write the page of a study, and return its file.

    Args:
        execution: The study.
        output: The file; None for ``view.html`` where the study is kept.

    Raises:
        SaeiError: If the file cannot be written.
    """
    from saei.report.page.study import study_page

    output = output or execution.places.keep / VIEW
    return _written(study_page(execution, output), output)


def _written(page: str, output: Path) -> Path:
    with disk_errors("A page is written into one file.", output, "Give another place with -o FILE."):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, page)
    return output


def _page(paths: Sequence[Path]) -> str:
    from saei.report.page.folder import is_run, read_folder
    from saei.report.page.run import run_page

    for path in paths:
        if not path.is_dir():
            raise ConfigError(
                "A page shows a folder that exists.",
                reason=f"There is no folder {path}.",
                remedy="`saei runs` lists the runs in your output folder, `saei study list` the studies.",
            )
    runs = [is_run(path) for path in paths]
    if all(runs) and len(paths) == 1:
        return run_page(read_folder(paths[0]))
    if all(runs):
        from saei.report.page.compare import runs_page

        return runs_page(paths)
    from saei.report.page.evaluation import evaluation_page, evaluations_page, is_evaluation

    for path, run in zip(paths, runs, strict=True):
        if not run and not is_evaluation(path):
            raise ConfigError(
                "A page shows the folder of a run, with its config.yaml, or of an evaluation, with its settings.json.",
                reason=f"{path} has neither.",
                remedy="Give one of the folders in your output folder.",
            )
    if any(runs):
        raise ConfigError(
            "Two runs are compared, or two evaluations.",
            reason=f"{paths[runs.index(True)]} is a run, {paths[runs.index(False)]} an evaluation.",
            remedy="Give two of one kind.",
        )
    return evaluation_page(paths[0]) if len(paths) == 1 else evaluations_page(paths)
