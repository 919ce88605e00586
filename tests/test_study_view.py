"""`saei view STUDY`: what the page of a study says, what it keeps back, and that no text on it is more than text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from commands import Saei
from run_folders import HOSTILE
from saei.report.page import write_study_page
from saei.studies.execution import Execution
from saei.studies.plan import StudyRun
from study_records import record_runs
from test_study import CONTENT, opened
from test_view import ALLOWED, Page

ENDS = {"GRPO": (0.2, 0.3, 0.2), "SaEI": (0.9, 0.8, 0.9)}
BASES = {"bases": {"models": ["one", "two", "three"]}, "seeds": 1}
ESCAPE: dict[str, Any] = {"escape": {"metric": "eval/accuracy", "threshold": 0.7}}


def learning(run: StudyRun, step: int) -> dict[str, Any]:
    end = ENDS[run.arm][int(run.base.label.split()[-1])]
    return {"eval/accuracy": 0.2 + (end - 0.2) * step / 4, "probe/entropy": 0.5, "train/budget": 24.0 * step}


def page_of(execution: Execution, output: Path | None = None) -> tuple[str, Page]:
    html = write_study_page(execution, output).read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


def told(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_verdict_stands_first_and_numbers_are_those_worked_by_hand(tmp_path: Path) -> None:
    execution = opened(tmp_path, **BASES, **ESCAPE)
    record_runs(execution, tmp_path / "trained", learning, steps=(0, 2, 4))
    _, page = page_of(execution)
    text = told(page)
    places = [text.index(words) for words in ("Question Does it?", "Refuted by It does not.", "Verdict SaEI - GRPO:")]
    assert places == sorted(places)
    assert text.index("Verdict SaEI - GRPO:") < text.index("95 % interval")
    for words in (
        "6 of 6 runs are recorded.",
        "SaEI - GRPO in eval/accuracy +0.633",  # the mean of .7, .5 and .7
        "base 1 +0.500",
        "GRPO: 0 of 3 runs escaped",
        "SaEI: 3 of 3 runs escaped",
        "GRPO 3 36 0.03",  # runs, seconds each, hours
        "all 6 36 0.06",
        "base 2 three accepted",
        f"saei study run {execution.read.file.name} --jobs 2",
    ):
        assert words in text, words


def test_drawings_say_what_they_show(tmp_path: Path) -> None:
    execution = opened(tmp_path, **BASES, **ESCAPE)
    record_runs(execution, tmp_path / "trained", learning, steps=(0, 2, 4))
    _, page = page_of(execution)
    said = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert any("SaEI minus GRPO in eval/accuracy: 0.633" in label and "margin 0.03" in label for label in said)
    assert any("share right, over training steps. GRPO: from 0.2 to 0.233. SaEI: from 0.2 to 0.867." in s for s in said)
    assert any("Share of runs that have not escaped" in label and "SaEI: 0 at step 4." in label for label in said)


def test_nothing_is_said_of_an_arm_before_all_runs_have_ended(tmp_path: Path) -> None:
    execution = opened(tmp_path, **BASES, **ESCAPE)
    record_runs(execution, tmp_path / "trained", learning, steps=(0, 2, 4), most=5)
    html, page = page_of(execution)
    text = told(page)
    assert "5 of 6 runs are recorded." in text
    assert "is shown when every run of every declared base has ended" in text
    assert page.tags["svg"] == 0
    for number in ("0.9", "0.8", "0.667", "0.233", "escaped ("):
        assert number not in html, number
    assert "smallest effect 0.05, margin 0.03" in text  # what was declared may be seen


def test_a_study_that_was_not_run_says_so(tmp_path: Path, saei: Saei) -> None:
    file = tmp_path / "page.html"
    said = saei("view", "split", "-o", file, "--studies", tmp_path / "none", "--keep", tmp_path / "kept")
    assert said.code == 0, said
    assert "Not run." in told(Page(file.read_text(encoding="utf-8")))
    assert not (tmp_path / "kept").exists()


def test_runs_are_linked_from_wherever_the_page_is(tmp_path: Path) -> None:
    execution = opened(tmp_path, **BASES)
    record_runs(execution, tmp_path / "trained", learning, steps=(0, 4))
    for output in (None, tmp_path / "a page" / "study.html"):
        _, page = page_of(execution, output)
        links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href") and value[0] != "#"]
        assert len(links) == 6 * 2
        folder = (output or execution.places.keep / "view.html").parent
        assert all((folder / link).is_file() for link in links)
        assert {Path(link).name for link in links} == {"config.yaml", "metrics.jsonl"}


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    arms = {"GRPO": CONTENT["arms"]["GRPO"], HOSTILE: CONTENT["arms"]["SaEI"]}
    contrast = {**CONTENT["contrasts"][0], "arm": HOSTILE}
    text = {"question": HOSTILE, "refuted_by": HOSTILE, "arms": arms, "contrasts": [contrast]}
    execution = opened(tmp_path, **BASES, **ESCAPE, **text, unequal={})
    record_runs(
        execution,
        tmp_path / "trained",
        lambda run, step: {"eval/accuracy": 0.1 * step, "probe/entropy": 1.0},
        steps=(0, 4),
    )
    html, page = page_of(execution)
    assert set(page.tags) <= ALLOWED, set(page.tags) - ALLOWED
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href"):
            assert re.match(r"#|data:|runs/[0-9a-f]{16}/[a-z.]+$", value), (tag, name, value)
    assert re.search(r"[\0-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html) is None
    assert "default-src 'none'" in html
    assert "<script>document.title" in page.text  # it is there to be read
    assert "{{ 7 * 7 }}" in page.text


@pytest.mark.parametrize(
    ("words", "reason"),
    [(("nothing",), "no folder nothing"), (("nothing.yaml",), "nothing.yaml"), ((".", "--quick"), "no study")],
)
def test_what_is_no_study_is_refused(words: tuple[str, ...], reason: str, saei: Saei) -> None:
    said = saei("view", *words)
    assert said.code == 2
    assert reason in said.err
