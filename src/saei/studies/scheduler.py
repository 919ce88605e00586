"""Several runs at a time, each in its process, until all are complete or somebody stops them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from saei.runtime.files import json_lines
from saei.runtime.interrupt import StopRequest
from saei.studies.process import STOPPED, ending_with_this
from saei.studies.runs import LOG, PlannedRun, command, is_complete, prepare

EVERY_S = 0.2
"""Seconds between two looks at the processes."""

ELSEWHERE_S = 2.0
"""Seconds between two looks at runs that other schedulers do."""


class State(StrEnum):
    """How far a run is."""

    waiting = "waiting"
    running = "running"
    elsewhere = "elsewhere"
    complete = "complete"
    stopped = "stopped"
    failed = "failed"


UNDONE = (State.waiting, State.elsewhere)


@dataclass(eq=False, slots=True)
class RunStatus:
    """A run and how far it is.

    Attributes:
        planned: The run.
        folder: Where it is.
        state: How far it is.
        already: It was complete before.
        step: Steps done.
        evaluation: Metrics of its newest evaluation; empty before the first.
        timed_steps: Steps that it did while they were timed, which begins when its process has done the first.
        timed_s: Their seconds.
    """

    planned: PlannedRun
    folder: Path
    state: State = State.waiting
    already: bool = False
    step: int = 0
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    timed_steps: int = 0
    timed_s: float = 0.0
    _read: int = 0
    _begun: tuple[int, float] | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.planned.config.training.steps

    def look(self) -> None:
        """Take note of the lines of metrics that were written since the last look."""
        file = self.folder / "metrics.jsonl"
        try:
            if file.stat().st_size < self._read:  # a run that goes on dropped lines, which it will write again
                self._read = 0
            with file.open("rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except OSError:  # nothing is written yet
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for _, line in json_lines(whole):
            if line is not None and isinstance(line.get("step"), int):
                self.step = line["step"]
                if "eval/accuracy" in line:
                    self.evaluation = line

    def time(self) -> None:
        """Look, and take the time of the steps that were done since the last look."""
        before = self.step
        self.look()
        if self.step == before:
            return
        if self._begun is None:
            self._begun = (self.step, time.monotonic())
        step, then = self._begun
        self.timed_steps, self.timed_s = self.step - step, time.monotonic() - then


class RunHooks:
    """What is done before each run begins and after it ends; here nothing."""

    def begin(self, status: RunStatus) -> bool:
        """Return whether the run's process may start now; if not, set the state to what keeps it from that."""
        return True

    def end(self, status: RunStatus) -> None:
        """Take note of what became of the run."""


def plan(planned_runs: Sequence[PlannedRun]) -> list[RunStatus]:
    """Make the folders of all runs ready, and return how far each is.

    Raises:
        ConfigError: If another process writes into one of them, or it is not writable.
    """
    statuses = []
    for planned in planned_runs:
        status = RunStatus(planned, prepare(planned))
        status.already = is_complete(status.folder, status.steps)
        status.state = State.complete if status.already else State.waiting
        status.look()
        statuses.append(status)
    return statuses


def run_all(
    statuses: Sequence[RunStatus],
    *,
    jobs: int,
    launcher: Sequence[str] = (sys.executable,),
    devices: Sequence[str] = (),
    hooks: RunHooks | None = None,
    on_change: Callable[[Sequence[RunStatus]], None] = lambda statuses: None,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Do all runs that are not complete; each status says in the end what became of it.

    SIGINT and SIGTERM stop all runs after their step and its checkpoint; a second one stops them at once. A run that
    fails does not keep the others from their end. If this process is killed, those of the runs end with it.

    Args:
        statuses: What ``plan`` returned.
        jobs: Runs at a time.
        launcher: What starts a run's Python module, such as ``("accelerate", "launch")``.
        devices: One value of ``CUDA_VISIBLE_DEVICES`` for each job; empty to leave that as it is.
        hooks: Asked before each run begins, and told after it ends.
        on_change: Called a few times a second.
        on_stop: Called at the first signal.
    """
    free = list(devices[:jobs]) if devices else [""] * jobs
    hooks = hooks or RunHooks()
    running: dict[int, tuple[subprocess.Popen[bytes], str]] = {}
    looked = time.monotonic()

    def stop_all() -> None:
        for process, _ in running.values():
            process.send_signal(signal.SIGINT)
        on_stop()

    with StopRequest(stop_all) as stop, _ended_in_the_end(running):
        while True:
            for number, (process, device) in list(running.items()):
                status = statuses[number]
                status.time()
                if process.poll() is not None:
                    status.state = _outcome(status, process.returncode, stopping=stop.requested)
                    free.append(device)
                    del running[number]
                    hooks.end(status)
            if time.monotonic() - looked > ELSEWHERE_S:
                looked = time.monotonic()
                for status in statuses:
                    if status.state is State.elsewhere:
                        status.state = State.waiting
            for number, status in enumerate(statuses):
                if status.state is State.waiting and free and not stop.requested and hooks.begin(status):
                    device = free.pop(0)
                    status.state = State.running
                    running[number] = (_start(status.folder, launcher, device), device)
            on_change(statuses)
            if not running and (stop.requested or not any(status.state in UNDONE for status in statuses)):
                return
            time.sleep(EVERY_S)


@contextmanager
def _ended_in_the_end(running: Mapping[int, tuple[subprocess.Popen[bytes], str]]) -> Iterator[None]:
    """Kill what still runs when an error or a second signal ends this; their checkpoints are whole."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.kill()
        for process, _ in running.values():
            process.wait()


def _start(folder: Path, launcher: Sequence[str], device: str) -> subprocess.Popen[bytes]:
    environment = ending_with_this()
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    with (folder / LOG).open("ab") as log:
        # A session of its own: Ctrl-C reaches it through this process alone, and once.
        return subprocess.Popen(
            command(folder, launcher),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _outcome(status: RunStatus, code: int, *, stopping: bool) -> State:
    if code == 0 and is_complete(status.folder, status.steps):
        return State.complete
    return State.stopped if stopping or code == STOPPED else State.failed
