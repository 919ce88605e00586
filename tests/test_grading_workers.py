"""Expressions are compared in other processes: nothing that a policy writes hangs, crashes or fills this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saei.errors import TrainingError
from saei.rewards.graders import worker as worker_script
from saei.rewards.graders import workers as pool_module
from saei.rewards.graders.base import AlgebraQuestion
from saei.rewards.graders.workers import OUT_OF_TIME, Workers

EQUAL = AlgebraQuestion("x^2+2x+1", "(x+1)^2")
OTHER = AlgebraQuestion("x^2+2x+1", "(x-1)^2")
ENDLESS = AlgebraQuestion("x+1", "\\int_0^{\\infty}\\frac{\\sin(x^x)}{x}dx")
TOWER = AlgebraQuestion("x", "9^{9^{9^{9}}}x")

# A stand-in for the worker that does what it is told.
PUPPET = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    word = json.loads(line)["answer"]
    if word == "abort": os.abort()
    if word == "exit": sys.exit(3)
    if word == "sleep": time.sleep(60)
    if word == "garbage": print("Hm.", flush=True)
    else: print(json.dumps({"equal": True, "reason": str(os.getpid())}), flush=True)
"""


@pytest.fixture
def pool() -> Iterator[Workers]:
    workers = Workers(2)
    yield workers
    workers.close()


@pytest.fixture
def puppets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    script = tmp_path / "puppet.py"
    script.write_text(PUPPET)
    monkeypatch.setattr(pool_module, "_SCRIPT", script)
    monkeypatch.setattr(pool_module, "GRACE_S", 0.5)
    workers = Workers(1)
    yield workers
    workers.close()


def test_verdicts_keep_the_order_of_the_questions(pool: Workers) -> None:
    verdicts = pool.compare([EQUAL, OTHER, EQUAL, AlgebraQuestion("a", "\\frac{"), OTHER])
    assert [one.correct for one in verdicts] == [True, False, True, False, False]
    assert "cannot be read" in pool.unreadable("\\frac{") or pool.unreadable("\\frac{")
    assert pool.unreadable("x+1") == ""


def test_bombs_end_at_the_limit_and_the_next_answer_is_graded(pool: Workers) -> None:
    verdicts = pool.compare([ENDLESS, TOWER, EQUAL], limit_s=0.5)
    assert [one.correct for one in verdicts] == [False, False, True]
    assert verdicts[0].reason == OUT_OF_TIME


def test_many_bombs_get_less_time_each(puppets: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def send(message: dict[str, float]) -> tuple[bool, str]:
        limits.append(message["limit"])
        return False, OUT_OF_TIME

    monkeypatch.setattr(puppets, "_send", send)
    puppets.compare([AlgebraQuestion("x", f"y_{n}") for n in range(8)], limit_s=2.0)
    assert limits == [2.0] * 5 + [0.1] * 3  # five times the limit wasted, then a twentieth of it
    limits.clear()
    puppets.compare([AlgebraQuestion("x", "y_0"), AlgebraQuestion("x", "y_7")], limit_s=2.0)
    assert limits == [2.0]  # what had its full time is remembered, what had not is asked again


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such timers")
def test_one_long_operation_is_ended_by_the_kernel() -> None:
    code = (
        "import importlib.util, itertools, signal\n"
        f"spec = importlib.util.spec_from_file_location('w', {worker_script.__file__!r})\n"
        "w = importlib.util.module_from_spec(spec); spec.loader.exec_module(w)\n"
        "signal.signal(signal.SIGPROF, w._out_of_time)\n"
        "deaf = lambda gold, answer: (bool(sum(itertools.repeat(1, 10 ** 11))), '')\n"
        "w._limited(deaf, {'gold': '', 'answer': '', 'limit': 0.2})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGVTALRM


@pytest.mark.skipif(sys.platform != "linux", reason="only there is the limit sure to hold")
def test_memory_is_limited() -> None:
    code = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('w', {worker_script.__file__!r})\n"
        "w = importlib.util.module_from_spec(spec); spec.loader.exec_module(w)\n"
        "w._limit_memory()\n"
        "try: bytearray(2 << 30)\n"
        "except MemoryError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


@pytest.mark.parametrize("word", ["abort", "exit", "garbage"])
def test_a_worker_that_breaks_is_replaced(puppets: Workers, word: str) -> None:
    first, broken, second = (puppets.compare([AlgebraQuestion("x", one)])[0] for one in ("a", word, "b"))
    assert first.correct
    assert second.correct
    assert first.reason != second.reason  # another process
    assert not broken.correct
    assert "ended its process" in broken.reason or broken.reason == OUT_OF_TIME


def test_a_worker_that_stands_still_is_ended(puppets: Workers) -> None:
    verdict = puppets.compare([AlgebraQuestion("x", "sleep")], limit_s=0.01)[0]
    assert (verdict.correct, verdict.reason) == (False, OUT_OF_TIME)
    assert puppets.compare([AlgebraQuestion("x", "a")])[0].correct


def test_equal_questions_are_asked_once(puppets: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    send = puppets._send
    monkeypatch.setattr(puppets, "_send", lambda message: asked.append(message) or send(message))
    puppets.compare([AlgebraQuestion("x", "a")] * 3)
    puppets.compare([AlgebraQuestion("x", "a"), AlgebraQuestion("x", "b")])
    assert len(asked) == 2


def test_workers_serve_all_threads(puppets: Workers) -> None:
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(puppets.compare([AlgebraQuestion("x", f"a{n}")])[0].correct))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12


def _pids(workers: Workers) -> set[int]:
    return {one._process.pid for one in workers._idle.queue if one is not None}


def _in_a_fork(results: Any) -> None:
    verdicts = pool_module.workers.compare([EQUAL, OTHER])
    results.put(([one.correct for one in verdicts], _pids(pool_module.workers)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_workers_of_its_own() -> None:
    pool_module.workers._remembered.clear()
    before = pool_module.workers.compare([EQUAL])
    own = _pids(pool_module.workers)
    pool_module.workers._remembered.clear()  # so that the child has to ask
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_a_fork, args=(results,))
    child.start()
    verdicts, others = results.get(timeout=120)
    child.join()
    assert verdicts == [True, False]
    assert own
    assert others
    assert not own & others
    assert pool_module.workers.compare([EQUAL]) == before


def test_a_worker_that_cannot_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken.py"
    script.write_text('print(\'{"failed": "ModuleNotFoundError: no math_verify"}\')')
    monkeypatch.setattr(pool_module, "_SCRIPT", script)
    for _ in range(3):  # and no worker is lost by it
        with pytest.raises(TrainingError, match="no math_verify") as error:
            Workers(1).compare([EQUAL])
    assert "pip install" in error.value.remedy


def test_nothing_starts_before_it_is_needed_and_all_ends_with_the_program() -> None:
    code = (
        "import sys\n"
        "from saei.rewards.graders.workers import AlgebraQuestion, workers\n"
        "assert all(one is None for one in workers._idle.queue)\n"
        "assert workers.compare([AlgebraQuestion('x+1', '1+x')])[0].correct\n"
        "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)\n"
        "print(*(one._process.pid for one in workers._idle.queue if one is not None))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pids = [int(word) for word in done.stdout.split()]
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_worker_imports_neither_saei_nor_torch() -> None:
    code = (
        "import runpy, sys, io\n"
        "sys.stdin = io.StringIO('')\n"
        f"runpy.run_path({worker_script.__file__!r}, run_name='__main__')\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(0 if 'sympy' in loaded and not {'saei', 'torch'} & loaded else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
