"""``saei view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saei.cli.study import ROOT, Keep, QuickStudy, StudyRoot, check_of_a_study, open_study
from saei.console import say

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN|EVALUATION|STUDY [OTHER]",
        help="The folder of a run or an evaluation, two of which are compared; or the name or file of a study.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where the page goes; by default view.html in the folder."),
]


def view(
    folders: Folders, output: Output = None, quick: QuickStudy = False, studies: StudyRoot = ROOT, keep: Keep = None
) -> None:
    """Show a run, an evaluation, two of either, or a study as one HTML file, which opens from disk and loads nothing.

    Of a study nothing is shown by arm before every run of every declared base has ended.
    """
    from saei.report.page import write_page, write_study_page
    from saei.studies.catalogue import is_study

    if len(folders) == 1 and not folders[0].is_dir() and is_study(str(folders[0])):
        execution = open_study(str(folders[0]), studies, keep, quick=quick)
        say(f"Written: {write_study_page(execution, output)}")
        return
    check_of_a_study(quick, studies, keep)
    say(f"Written: {write_page(folders, output)}")
