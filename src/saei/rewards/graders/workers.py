"""The pool of worker processes that compare expressions: started when first needed, ended and replaced when stuck."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import LifoQueue
from typing import Any

from saei.errors import TrainingError
from saei.rewards.graders.base import AlgebraQuestion, Verdict

TIME_LIMIT_S = 2.0
"""CPU seconds for one answer; a typical one takes a hundredth of a second."""

OVERTIME = 5
"""How many times the limit the answers of one batch may waste before the others get little time."""

LEAST = 1 / 20
"""Share of the limit that every answer gets, whatever the others of its batch wasted."""

OUT_OF_TIME = "over the time limit"
PATIENCE = 20.0 if hasattr(signal, "setitimer") else 3.0
GRACE_S = 10.0
"""A worker is ended after ``PATIENCE`` times its limit and ``GRACE_S``. Its own limits are CPU time; this one is for a
process that waits or stands still, and for systems without such timers."""

_SCRIPT = Path(__file__).with_name("worker.py")
_REMEMBERED = 50_000  # verdicts
_RENEWED_AFTER = 5_000  # questions, since algebra keeps caches


class Workers:
    """Compares expressions in other processes; every method may be called from any thread.

    Args:
        count: Processes; None takes one per CPU, four at most.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or min(4, _cpus())
        self._reset()
        self._remembered: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    def compare(self, questions: Sequence[AlgebraQuestion], limit_s: float = TIME_LIMIT_S) -> list[Verdict]:
        """Return for each pair of expressions whether they are equal.

        An answer that takes longer than the limit, needs too much memory or breaks its worker is wrong.

        Args:
            questions: Pairs of expressions.
            limit_s: CPU seconds for one; less for later ones where many of a batch have run out of it.

        Raises:
            TrainingError: If workers cannot be started.
        """
        unknown = [question for question in dict.fromkeys(questions) if self._recall(question) is None]
        overtime = _Overtime(limit_s)
        if len(unknown) > 1 and self.count > 1:
            with ThreadPoolExecutor(min(self.count, len(unknown)), "saei-grading") as threads:
                verdicts = list(threads.map(lambda question: self._ask(question, overtime), unknown))
        else:
            verdicts = [self._ask(question, overtime) for question in unknown]
        new_verdicts = dict(zip(unknown, verdicts, strict=True))
        return [
            new_verdicts.get(question) or self._recall(question) or self._ask(question, overtime)
            for question in questions
        ]

    def unreadable(self, gold: str, limit_s: float = TIME_LIMIT_S) -> str:
        """Return why a gold answer cannot be read as an expression, an empty text if it can."""
        reply, reason = self._send({"gold": gold, "answer": None, "limit": limit_s})
        return "" if reply else reason

    def close(self) -> None:
        """End all workers; they start again when they are needed."""
        for _ in range(self.count):
            worker = self._idle.get()
            if worker is not None:
                worker.end()
            self._idle.put(None)

    def _reset(self) -> None:
        """Forget all workers without touching them: after a fork they belong to the parent."""
        self._lock = threading.Lock()
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(self.count):
            self._idle.put(None)

    def _ask(self, question: AlgebraQuestion, overtime: _Overtime) -> Verdict:
        limit_s = overtime.limit()
        equal, reason = self._send({"gold": question.gold, "answer": question.answer, "limit": limit_s})
        verdict = Verdict(equal, reason)
        if reason == OUT_OF_TIME:
            overtime.add(limit_s)
            if limit_s < overtime.full_s:
                return verdict  # with more time another day it may be another one
        with self._lock:
            self._remembered[question.gold, question.answer] = verdict
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return verdict

    def _recall(self, question: AlgebraQuestion) -> Verdict | None:
        with self._lock:
            return self._remembered.get((question.gold, question.answer))

    def _send(self, message: dict[str, Any]) -> tuple[bool, str]:
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker()
            reply = worker.ask(message)
            if reply is None or worker.questions >= _RENEWED_AFTER:
                reason = worker.end()
                worker = None
            if reply is None:
                return False, reason
            return bool(reply["equal"]), str(reply["reason"])
        finally:
            self._idle.put(worker)


class _Overtime:
    """What the answers of one batch have wasted."""

    def __init__(self, full_s: float) -> None:
        self.full_s = full_s
        self._left_s = OVERTIME * full_s
        self._lock = threading.Lock()

    def limit(self) -> float:
        with self._lock:
            return max(LEAST * self.full_s, min(self.full_s, self._left_s))

    def add(self, seconds: float) -> None:
        with self._lock:
            self._left_s -= seconds


class _Worker:
    """One process and the pipes to it; used by one thread at a time.

    Raises:
        TrainingError: If it cannot be started.
    """

    def __init__(self) -> None:
        self.questions = 0
        # One thread each, and the same order of symbols in every process and run.
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=surroundings,
                text=True,
                encoding="ascii",
            )
        except OSError as error:
            raise _no_worker(str(error)) from error
        ready = self._read(60.0)
        if ready is None or "ready" not in ready:
            self.end()
            raise _no_worker(str((ready or {}).get("failed", "it ended at once")))

    def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply to a message, None if the process ended over it."""
        self.questions += 1
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        return self._read(PATIENCE * float(message["limit"]) + GRACE_S)

    def end(self) -> str:
        """End the process and return why it had ended by itself."""
        process = self._process
        code = process.poll()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not written yet need not be
                pipe.close()
        if code is None:
            process.kill()
        code = process.wait()
        late = {-getattr(signal, name) for name in ("SIGVTALRM", "SIGPROF", "SIGKILL") if hasattr(signal, name)}
        return OUT_OF_TIME if code in late else f"algebra ended its process with code {code}"

    def _read(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._process.stdout.readline()
            return dict(json.loads(line)) if line.endswith("\n") else None
        except (OSError, ValueError):
            return None
        finally:
            watchdog.cancel()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _no_worker(reason: str) -> TrainingError:
    return TrainingError(
        "Grading expressions takes a worker process with math-verify.",
        reason=f"It did not start: {reason}.",
        remedy="Install it with `pip install 'math-verify[antlr4_13_2]'`, in the environment of this Python.",
    )


workers = Workers()
"""The pool of this process."""

atexit.register(workers.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers._reset)
