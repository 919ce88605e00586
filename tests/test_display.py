"""What a run shows while it goes: its numbers, the phase that it is in, and the time left; on any width."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runs import registered, tiny
from saei.console import screen
from saei.engine import Trainer
from saei.engine.display import LiveDisplay, PlainDisplay
from saei.policy import Policy
from saei.policy.load.weights import Parts
from saei.runtime import progress as progress_module
from saei.runtime.pace import Pace, readable_s
from saei.runtime.progress import progress, seconds
from saei.runtime.stopwatch import Stopwatch

EVALUATED = {
    "eval/accuracy": 0.25,
    "probe/entropy": 0.343,
    "probe/distinct_answers": 4.8,
    "probe/zero_variance": 0.31,
    "train/reward": 0.41,
    "train/length": 22.4,
    "train/entropy": 0.31,
    "time/evaluate": 5.0,
}
TRAINED = {name: value for name, value in EVALUATED.items() if name.startswith("train/")}


class Clock:
    """Stands in for ``time.monotonic``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Any]:
    from runs import Checksum

    with registered(Checksum):
        yield tiny(Path("model"), tmp_path, training__steps=50, evaluation__every=20)


def shown(display: LiveDisplay, width: int) -> list[str]:
    """The lines of a live display's panel on a terminal of some width."""
    page = screen(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    display._console = page
    page.print(display.panel())
    return page.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_the_time_left_counts_steps_and_evaluations_apart(clock: Clock) -> None:
    pace = Pace(steps=50, every=20)
    pace.note(0, 5.0)
    assert pace.left_s() is None  # no step is done yet
    for step in range(1, 11):
        clock.now += 2.0
        pace.note(step, None)
    # 40 steps of 2 s; evaluations of 5 s after steps 20, 40 and 50.
    assert pace.left_s() == pytest.approx(40 * 2 + 3 * 5)
    clock.now += 1.5
    assert pace.left_s() == pytest.approx(40 * 2 + 3 * 5 - 1.5)
    for step in range(11, 21):
        clock.now += 2.0 if step > 11 else 0.5
        if step == 20:
            clock.now += 7.0
        pace.note(step, 7.0 if step == 20 else None)
    assert pace.left_s() == pytest.approx(30 * 2 + 2 * 6)


def test_only_the_newest_steps_count(clock: Clock) -> None:
    pace = Pace(steps=100, every=100)
    for step in range(1, 41):
        clock.now += 9.0 if step <= 20 else 1.0
        pace.note(step, None)
    assert pace.left_s() == pytest.approx(60)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7801, "2 h 10 min"),
    ],
)
def test_seconds_are_readable(length: float, text: str) -> None:
    assert readable_s(length) == text


def test_a_stopwatch_tells_phases_as_they_begin_and_end() -> None:
    told: list[str | None] = []
    stopwatch = Stopwatch(("sample",), on_phase=told.append)
    with stopwatch.phase("attack"), stopwatch.phase("sample"):
        pass
    with pytest.raises(ZeroDivisionError), stopwatch.phase("update"):
        _ = 1 / 0
    assert told == ["attack", "sample", "attack", None, "update", None]


def test_the_live_panel_tells_numbers_phase_and_time_left(clock: Clock, config: Any) -> None:
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=False))
    with display.open(config, Path("run")):
        pass
    display.phase("evaluate")
    clock.now += 3
    (bar,) = shown(display, 80)
    assert bar.startswith("evaluating, 3 s")
    assert "0/50" in bar
    assert "left" not in bar
    display.step(0, EVALUATED)
    clock.now += 2
    display.step(1, TRAINED)
    display.phase("sample")
    display.phase("update")
    clock.now += 1
    table, row, numbers, bar = (line.rstrip() for line in shown(display, 80))
    assert table.split() == ["step", "accuracy", "entropy", "answers", "zero", "var.", "reward", "length"]
    assert row.split() == ["0", "0.25", "0.343", "4.8", "31%", "0.41", "22"]
    assert numbers == "step 1: reward 0.41, length 22 tokens, entropy 0.310 nats"
    assert bar.startswith("updating, 1 s")
    assert bar.endswith(f"1/50 {readable_s(49 * 2 + 3 * 5 - 1)} left")
    display.phase(None)
    assert shown(display, 80)[-1].startswith("between phases")
    display.step(50, TRAINED)
    assert "left" not in shown(display, 80)[-1]


@pytest.mark.parametrize("width", [30, 40, 58, 59, 60, 80, 200])
def test_no_line_of_the_panel_is_wider_than_the_terminal(clock: Clock, config: Any, width: int) -> None:
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=False))
    with display.open(config, Path("run")):
        pass
    for step in range(0, 50, 2):
        clock.now += 5000
        display.step(step, EVALUATED)
    display.phase("control")
    lines = shown(display, width)
    assert max(map(len, lines)) <= width
    heading = next(line for line in lines if "step" in line)
    # Whole columns are left out, and no heading is cut or takes two lines.
    assert set(heading.replace("zero var.", "zero-var.").split()) <= {
        "step", "accuracy", "entropy", "answers", "zero-var.", "reward", "length",
    }  # fmt: skip
    assert ("length" in heading) is (width >= 59)
    first = lines[lines.index(heading) + 1].split()
    assert first[:3] == ["0", "0.25", "0.343"]
    if width >= 60:
        assert len(lines) == 1 + (1 + 1 + 10) + 1 + 1  # heading, first, dots, the newest ten, the step, the bar


def test_plain_lines_tell_a_phase_that_begins_long_after_the_last_line(clock: Clock, config: Any) -> None:
    page = io.StringIO()
    display = PlainDisplay(page)
    with display.open(config, Path("run")):
        display.phase("evaluate")
        display.step(0, EVALUATED)
        clock.now += 29
        display.phase("sample")
        clock.now += 2
        display.phase(None)
        display.phase("update")
        display.phase("reward")
        clock.now += 9
        display.step(1, TRAINED)
        display.step(2, TRAINED)
    lines = page.getvalue().splitlines()[3:]
    assert lines == [
        "step    0/50  accuracy 0.25  entropy 0.343  answers 4.8  zero var. 31%  reward 0.41  length 22",
        "step    0/50  updating",
        f"step    1/50  reward 0.41  length 22  {readable_s(49 * 40 + 3 * 5)} left",
    ]


def test_a_run_tells_its_display_every_phase(random_parts: Parts, tmp_path: Path) -> None:
    from runs import Checksum
    from saei.data.templates import ThinkBoxed

    class Noting(PlainDisplay):
        def __init__(self) -> None:
            super().__init__(io.StringIO())
            self.phases: list[str] = []

        def phase(self, name: str | None) -> None:
            self.phases.append(name or "-")

    Policy(random_parts, ThinkBoxed()).save(tmp_path / "model")
    display = Noting()
    with registered(Checksum):
        Trainer(tiny(tmp_path / "model", tmp_path, training__steps=1, evaluation__every=1), display=display).train()
    told = [name for name in display.phases if name != "-"]
    assert told[0] == "evaluate"
    first = [told.index(name) for name in ("evaluate", "data", "sample", "attack", "reward", "update", "checkpoint")]
    # The attack of the sampler is around its sampling from the views that it makes, which comes after the clean one.
    assert first == sorted(first), told
    assert told[-1] == "checkpoint"
    assert display.phases[-1] == "-"


def test_loading_tells_its_seconds_where_output_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "EVERY_S", 0.01)
    with seconds("Loading \x1b[31mx"):
        time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Loading \\u001b[31mx ..."
    assert set(said[1:]) == {"Loading \\u001b[31mx: 0 s"}
    with seconds("Loading y"):
        pass
    assert capsys.readouterr().err == "Loading y ...\n"


def test_loading_is_one_line_on_a_terminal_and_makes_room_for_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.StringIO()
    monkeypatch.setattr(page, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", page)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    with seconds("Loading " + "x" * 100):
        (live,) = progress_module._waiting
        with progress("Looking at the data"):
            assert not live.is_started
            assert not progress_module._waiting
    assert "Loading xxxx" in page.getvalue()
    assert "x" * 40 not in page.getvalue()
