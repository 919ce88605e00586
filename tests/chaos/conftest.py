"""What the chaos suite shares: it is slow, its cases are counted, and a hang is an error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cases import FULL, LONGEST_S, SEED, InTime, Tried

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def tried(record_property: Callable[[str, Any], None]) -> Iterator[Tried]:
    """Count a case, by what became of it; the sums stand below the test results."""
    counts: Counter[str] = Counter()

    def count(what: str) -> None:
        counts[what] += 1

    yield count
    for what, number in counts.items():
        record_property(f"chaos {what}", number)


@pytest.fixture
def in_time(record_property: Callable[[str, Any], None]) -> Iterator[InTime]:
    """Fail where something takes longer than anything hostile may; the clock counts this process's CPU alone."""
    longest = 0.0

    @contextmanager
    def measured() -> Iterator[None]:
        nonlocal longest
        start = time.process_time()
        yield
        spent = time.process_time() - start
        longest = max(longest, spent)
        assert spent < LONGEST_S, f"It took {spent:.1f} CPU seconds."

    yield measured
    record_property("longest", round(longest, 3))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    # What fixtures record at their end stands in the report of a test's teardown.
    everything = [one for reports in terminalreporter.stats.values() for one in reports]
    reports = [one for one in everything if getattr(one, "when", None) == "teardown"]
    counts: Counter[str] = Counter()
    for report in reports:
        for name, number in report.user_properties:
            if name.startswith("chaos "):
                counts[name.removeprefix("chaos ")] += number
    if not counts:
        return
    terminalreporter.section(f"chaos: seed {SEED}, {'full' if FULL else 'short'} form")
    for what, number in sorted(counts.items()):
        terminalreporter.write_line(f"{number:7d}  {what}")
    longest = max((value for one in reports for name, value in one.user_properties if name == "longest"), default=0.0)
    terminalreporter.write_line(f"{longest:7.2f}  CPU seconds: the longest case in the test's own process")
