"""Write the pages of the studies that come with saei, the tables of docs/studies/index.md, and the places in the menu.

`python scripts/studies_pages.py`, after a study's file or records changed. A page that says of its study that it was
declared before its runs keeps this as long as ledger and file say so, though the statistics may have moved on: its
numbers are those of the newest code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from saei.studies.catalogue import shipped
from saei.studies.declarations import Contrast
from saei.studies.execution import Execution, StudyPlaces
from saei.studies.headlines import headline_answers
from saei.studies.outcome import Outcome, outcome_of
from saei.studies.page import headline_table, page
from saei.studies.sentences import standing
from saei.studies.study import Study, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "studies"
INDEX, MENU = FOLDER / "index.md", ROOT / "mkdocs.yml"
TABLE = r"(?<=<!-- {0} -->\n\n).*?(?=\n\n<!-- end of {0} -->)"
PLACES = re.compile(r"(?<=      - Studies: studies/index.md\n)(      - Study [^\n]*\n)*")


def main() -> None:
    """Rewrite the pages."""
    outcomes = {name: outcome(name, execution) for name, execution in executions().items()}
    for file in FOLDER.glob("*.md"):
        if file != INDEX and file.stem not in outcomes:
            file.unlink()
    for name, text in pages(outcomes).items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    INDEX.write_text(index(INDEX.read_text(encoding="utf-8"), outcomes), encoding="utf-8")
    places = "".join(f"      - Study {name}: studies/{name}.md\n" for name in outcomes)
    MENU.write_text(PLACES.sub(places, MENU.read_text(encoding="utf-8"), count=1), encoding="utf-8")


def executions() -> dict[str, Execution]:
    """Return the studies by name, as a machine sees them that has the repository alone, without runs and bases."""
    return {
        name: Execution(read(file), StudyPlaces(ROOT / "runs" / "none", FOLDER / name))
        for name, file in shipped().items()
    }


def outcome(name: str, execution: Execution) -> Outcome:
    """Return what came of a study."""
    file = FOLDER / f"{name}.md"
    declared = file.is_file() and standing(()) in file.read_text(encoding="utf-8")
    return outcome_of(execution, reasons=execution.exploratory(deciding=not declared))


def pages(outcomes: dict[str, Outcome]) -> dict[str, str]:
    """Return the text of each study's page."""
    return {name: page(execution, outcomes[name]) for name, execution in executions().items()}


def index(text: str, outcomes: dict[str, Outcome]) -> str:
    """Return the text of the overview with today's tables in their places."""
    studies = [(execution.read.study, outcomes[name]) for name, execution in executions().items()]
    tables = {
        "studies": study_table([study for study, _ in studies]),
        "headlines": headline_table(headline_answers(studies)),
    }
    for name, table in tables.items():
        text = re.sub(TABLE.format(name), lambda _, table=table: table, text, count=1, flags=re.DOTALL)
    return text


def study_table(studies: Sequence[Study]) -> str:
    """Return a table with a row for each study."""
    lines = ["| study | asks | runs | primary contrasts |", "|---|---|---|---|"]
    for study in studies:
        contrasts = "<br>".join(map(_contrast, study.contrasts)) or "none: all of it is exploratory"
        link = f"[`{study.name}`]({study.name}.md)"
        lines.append(f"| {link} | {study.question.strip()} | {_runs(study)} | {contrasts} |")
    return "\n".join(lines)


def _runs(study: Study) -> str:
    seeds = f" x {study.seeds} seeds" if study.seeds > 1 else ""
    return f"{len(study.arms)} arms x {study.bases.number} bases{seeds}"


def _contrast(contrast: Contrast) -> str:
    return f"{contrast.arm} - {contrast.against}, `{contrast.measure}`"


if __name__ == "__main__":
    main()
