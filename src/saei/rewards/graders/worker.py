"""A worker process: compares expressions with math-verify, under limits that its operating system enforces.

It is run as a script by its path, so that it imports neither saei nor the main program, and no torch. It reads one
JSON object a line, ``{"gold": …, "answer": …, "limit": seconds}``, and answers one a line, ``{"equal": …, "reason":
…}``; an answer of null asks only whether the gold answer can be read. Whatever else is printed goes nowhere.

Limits are CPU time, so that a busy machine grades like an idle one. At the limit an exception ends Python code; at
twice the limit the kernel ends the process, which is the only way out of a single operation that hears no signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

MEMORY = 1 << 30  # bytes of address space
CLOSE = 1e-6  # relative; math-verify itself rounds to six decimals


class OutOfTimeError(BaseException):
    """The time limit; no ``Exception``, so that nothing on the way takes it for an error of its own."""


def main() -> None:
    """Answer questions until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what an interrupt ends
    _limit_memory()
    try:
        compare = _comparison()
    except Exception as error:  # math-verify and what it imports may be missing or broken in many ways
        _reply(replies, {"failed": f"{type(error).__name__}: {error}"})
        return
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        try:
            equal, reason = _limited(compare, question)
        except MemoryError:
            _reply(replies, {"equal": False, "reason": "over the memory limit"})
            return  # the state of the heap is unknown
        _reply(replies, {"equal": equal, "reason": reason})


def _comparison() -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import parse, verify
    from math_verify.parser import LatexExtractionConfig
    from sympy import Expr, MatrixBase, Symbol, Tuple, simplify

    # Units are taken off before; math-verify would take the m of 5m for one.
    reading = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    config = [LatexExtractionConfig(normalization_config=reading)]
    golds: dict[str, Any] = {}

    def read(text: str) -> Any:
        parsed = parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)
        return parsed or None

    def compare(gold_text: str, answer_text: str | None) -> tuple[bool, str]:
        if gold_text not in golds:
            if len(golds) >= 256:
                golds.clear()
            golds[gold_text] = read(gold_text)
        gold = golds[gold_text]
        if gold is None:
            return False, "the gold answer cannot be read as an expression"
        if answer_text is None:
            return True, ""
        answer = read(answer_text)
        if answer is None:
            return False, "not an expression that can be read"
        equal = verify(gold, answer, timeout_seconds=None, raise_on_error=True) or lone_symbol(gold[0], answer[0])
        equal = equal and near(gold[0], answer[0])
        return equal, "equal by algebra" if equal else "not equal by algebra"

    def lone_symbol(gold: Any, answer: Any) -> bool:
        """Whether x is x^2/x: math-verify compares a symbol that stands alone by its name only."""
        symbols = isinstance(gold, Symbol), isinstance(answer, Symbol)
        if symbols[0] == symbols[1] or not (isinstance(gold, Expr) and isinstance(answer, Expr)):
            return False
        return bool(simplify(gold - answer) == 0)

    def near(gold: Any, answer: Any) -> bool:
        """Whether two numbers agree relative to their size: math-verify takes all below its last decimal for 0."""
        if isinstance(gold, (Tuple, MatrixBase)) and isinstance(answer, type(gold)):
            return all(near(a, b) for a, b in zip(gold, answer, strict=False))
        if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or gold.free_symbols or answer.free_symbols:
            return True
        gold, answer = gold.doit(), answer.doit()
        if gold == answer:
            return True
        sizes = [abs(number.evalf(20)) for number in (gold, answer)]
        apart = abs((gold - answer).evalf(20, maxn=400))
        if not all(number.is_Float or number.is_Integer for number in (*sizes, apart)):
            return True
        return bool(apart <= CLOSE * max(sizes))

    return compare


def _limited(compare: Any, question: dict[str, Any]) -> tuple[bool, str]:
    try:
        _arm(question["limit"])
        try:
            outcome: tuple[bool, str] = compare(question["gold"], question["answer"])
        finally:
            _arm(0)
        return outcome
    except OutOfTimeError:
        _arm(0)
        return False, "over the time limit"
    except MemoryError:
        raise
    except RecursionError:
        return False, "nested too deeply"
    except Exception as error:  # sympy and the LaTeX parser raise whatever an answer makes them raise
        return False, f"algebra failed: {type(error).__name__}"


def _arm(seconds: float) -> None:
    """Start both timers, or stop them with 0."""
    if not hasattr(signal, "setitimer"):  # Windows: the main process's own limit has to do
        return
    # Again and again, since an exception that is raised inside of a destructor is lost.
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds / 4)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)


def _out_of_time(*_: Any) -> None:
    raise OutOfTimeError


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # where the system knows no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _reply(replies: Any, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    if hasattr(signal, "SIGPROF"):
        signal.signal(signal.SIGPROF, _out_of_time)
    main()
