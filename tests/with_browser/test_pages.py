"""Pages in a browser: they render, ask nothing of the network, can be read by everyone, and run no text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from run_folders import HOSTILE, evaluation_folder, run_folder
from saei.report.page import write_page, write_study_page
from saei.studies.plan import StudyRun
from study_records import record_runs
from test_study import opened

KINDS = ("run", "runs", "evaluation", "evaluations", "study")
TEXTS = {"plain": "it is 3", "hostile": HOSTILE}
WIDTHS = (390, 1280)
REACHABLE = "[...document.querySelectorAll('a[href], summary, [tabindex]')]"
LEFT = os.environ.get("SAEI_SCREENSHOTS")
"""A folder for screenshots, to be looked at."""


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    files = {}
    for name, text in TEXTS.items():
        root = tmp_path_factory.mktemp(name)
        run, other = (run_folder(root / each, text=text) for each in ("run", "other"))
        first = evaluation_folder(root / "first", text=text)
        second = evaluation_folder(root / "second", text=text, right=5)
        folders = {"run": (run,), "runs": (run, other), "evaluation": (first,), "evaluations": (first, second)}
        for kind, paths in folders.items():
            files[kind, name] = write_page(paths, root / f"{kind}.html")
        files["study", name] = study_page(root, text)
    return files


def study_page(root: Path, text: str) -> Path:
    """Return the page of a study that all runs of have ended, with a text as its question."""
    escape = {"metric": "eval/accuracy", "threshold": 0.7}
    folder = root / "study"
    folder.mkdir()
    execution = opened(folder, question=text, bases={"models": ["one", "two", "three"]}, escape=escape)
    record_runs(execution, folder / "trained", learning, steps=(0, 2, 4))
    return write_study_page(execution)


def learning(run: StudyRun, step: int) -> dict[str, float]:
    gain = 0.02 * run.repeat + (0.2 if run.arm == "SaEI" else 0.1) * (1 + int(run.base.label.split()[-1]))
    return {"eval/accuracy": 0.2 + gain * step / 4, "probe/entropy": 1 - gain, "probe/zero_variance": 0.5}


class Visit:
    """A page in a fresh browser window, with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1280, theme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_renders_and_asks_for_nothing(chromium: Any, pages: Any, kind: str, text: str) -> None:
    file = pages[kind, text]
    with Visit(chromium, file) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        visit.page.wait_for_timeout(100)
        assert visit.said == []
        assert [url for url in visit.requests if url != file.as_uri() and not url.startswith("data:")] == []
        assert visit.page.locator("h1").is_visible()
        for image in visit.page.locator("img").all():
            assert image.evaluate("image => image.complete && image.naturalWidth > 0")


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_stays_text(chromium: Any, pages: Any, kind: str) -> None:
    with Visit(chromium, pages[kind, "hostile"]) as visit:
        assert "owned" not in visit.page.title()
        assert visit.page.locator("script").count() == 0
        assert visit.page.locator("[onerror]").count() == 0
        assert "<script>" in visit.page.locator("main").text_content()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_everyone_can_read_it(chromium: Any, pages: Any, kind: str, width: int, theme: str) -> None:
    with Visit(chromium, pages[kind, "plain"], width=width, theme=theme) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        found = Axe().run(visit.page).response["violations"]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
        if LEFT:
            visit.page.screenshot(path=f"{LEFT}/{kind}-{width}-{theme}.png", full_page=True)


def test_the_keyboard_reaches_everything_in_order(chromium: Any, pages: Any) -> None:
    with Visit(chromium, pages["run", "plain"]) as visit:
        wanted = visit.page.evaluate(f"{REACHABLE}.filter(each => each.checkVisibility()).length")
        places = []
        for _ in range(wanted):
            visit.page.keyboard.press("Tab")
            places.append(visit.page.evaluate(f"{REACHABLE}.indexOf(document.activeElement)"))
        assert -1 not in places
        assert places == sorted(places)
        assert len(set(places)) == wanted
        first = visit.page.locator("summary").first
        first.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.locator("details").first.get_attribute("open") is not None
