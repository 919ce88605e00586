"""A process that has imported what commands need, and runs each in a fork of itself: seconds less per command.

It reads one order a line and answers with one line. An order may say at which of its file operations the command is
killed: before the n-th of them, or some time after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

OPERATIONS = {
    "open": "write",
    "os.rename": "rename",
    "os.remove": "delete",
    "os.rmdir": "delete",
    "os.mkdir": "mkdir",
    "os.truncate": "write",
}
"""What changes files, by the name of Python's audit event; each is told before it happens."""


class Watch:
    """Counts the operations on files below a folder, and ends the process at one of them.

    Args:
        folder: The folder.
        kill_at: The number of the operation, from 0; None for never.
        delay_s: How long after it, 0 for right before it.
    """

    def __init__(self, folder: Path, kill_at: int | None, delay_s: float) -> None:
        self.operations: list[str] = []
        self._folder = str(folder)
        self._kill_at, self._delay_s = kill_at, delay_s

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        operation = OPERATIONS.get(event)
        if operation is None:
            return
        path = arguments[0]
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        # A relative path is one below an open folder, as where trees are deleted, or below the working folder.
        relative_to_open = event != "open" and isinstance(arguments[-1], int) and arguments[-1] >= 0
        if not relative_to_open and not os.path.abspath(name).startswith(self._folder):
            return
        if self._kill_at == len(self.operations):
            if self._delay_s == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, self._delay_s)  # nobody handles it: it ends the process
        self.operations.append(f"{operation} {name.removeprefix(self._folder)}")


def command(order: dict[str, Any]) -> NoReturn:
    """Run ``saei`` as its entry point does, in this process, which is a fork."""
    os.chdir(order["home"])
    with open(order["said"], "wb") as said, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.argv = ["saei", *order["arguments"]]
    watch = Watch(Path(order["watched"]), order["kill_at"], order["delay_s"])
    sys.addaudithook(watch)
    code = 1
    try:
        from saei.cli import main

        main()
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        Path(order["said"] + ".operations").write_text(json.dumps(watch.operations))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Run what is ordered, one command at a time."""
    import accelerate
    import datasets
    import matplotlib.figure
    import safetensors.torch
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl

    import saei.cli.benchmark
    import saei.engine
    import saei.evaluation.benchmark
    import saei.report.demo

    imported = (accelerate, datasets, matplotlib.figure, safetensors.torch, transformers, saei.cli.benchmark)
    assert all(imported)
    assert threading.active_count() == 1
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        begun = time.monotonic()
        process = os.fork()
        if process == 0:
            command(order)
        _, status = os.waitpid(process, 0)
        print(json.dumps({"status": status, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    serve()
