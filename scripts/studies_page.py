"""Write the table of the studies that come with saei into docs/studies/index.md.

`python scripts/studies_page.py`, after a study was added or its file changed.
"""

from __future__ import annotations

from pathlib import Path

from saei.studies.catalogue import shipped
from saei.studies.study import Contrast, Study, read

PAGE = Path(__file__).parents[1] / "docs" / "studies" / "index.md"
START, END = "<!-- studies -->\n", "<!-- end of studies -->\n"


def main() -> None:
    """Rewrite the table."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the page's text with today's table in place of the one that it has."""
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


def table() -> str:
    """Return the table, a row for each study."""
    lines = ["| study | asks | runs | primary contrasts |", "|---|---|---|---|"]
    for file in shipped().values():
        study = read(file).study
        contrasts = "<br>".join(map(_contrast, study.contrasts)) or "none: all of it is exploratory"
        lines.append(f"| `{study.name}` | {study.question.strip()} | {_runs(study)} | {contrasts} |")
    return "\n".join(lines) + "\n"


def _runs(study: Study) -> str:
    seeds = f" x {study.seeds} seeds" if study.seeds > 1 else ""
    return f"{len(study.arms)} arms x {study.bases.number} bases{seeds}"


def _contrast(contrast: Contrast) -> str:
    return f"{contrast.arm} - {contrast.against}, `{contrast.measure}`"


if __name__ == "__main__":
    main()
