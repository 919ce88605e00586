"""The process of one prepared run: `python -m saei.studies.process FOLDER` begins it, or goes on with it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

END_WITH_PARENT = "SAEI_END_WITH_PARENT"
"""Set in the environment of a process that is to end when the one that started it does, however that ends: machine and
number of the latter."""

STOPPED, REFUSED = 130, 2
"""Exit codes: a checkpoint was written on a signal; what was asked for cannot work. Complete is 0."""


def main(folder: Path) -> int:
    """Do the run in a folder and return the process's exit code."""
    end_with_parent()
    from saei.console import say
    from saei.engine import Trainer
    from saei.engine.display import PlainDisplay
    from saei.errors import SaeiError
    from saei.runtime.interrupt import Interrupted
    from saei.runtime.launcher import first_process
    from saei.runtime.processes import destroy_process_group
    from saei.runtime.run_dir import RunDir
    from saei.studies.final.evaluation import check_problems, evaluate_run
    from saei.studies.runs import final_of, is_complete, is_trained

    try:
        run, config = RunDir.open(folder)
        if is_complete(folder, config.training.steps):
            say(f"Complete already: {folder}", error=True)
            return 0
        final = final_of(folder)
        if final is not None:
            check_problems(config, final)
        if not is_trained(folder, config.training.steps):
            trainer = Trainer(config, resume=run, display=PlainDisplay())
            trainer.train()
            del trainer  # its model gives way to that of its last checkpoint
        if final is not None:
            if first_process():
                say(f"Final evaluation: {final.examples} problems, {final.responses} responses to each.", error=True)
            evaluate_run(run, config, final)
    except Interrupted as stopped:
        say(stopped, error=True)
        return STOPPED
    except SaeiError as error:
        say(error, error=True)
        return REFUSED
    destroy_process_group()
    return 0


def ending_with_this() -> dict[str, str]:
    """Return the environment of a process that is to end with this one."""
    return {**os.environ, END_WITH_PARENT: f"{socket.gethostname()} {os.getpid()}"}


def end_with_parent() -> None:
    """Where the environment says so, ask Linux to kill this process when its parent dies; elsewhere it goes on."""
    if sys.platform != "linux" or END_WITH_PARENT not in os.environ:
        return
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    # It may have died before that, and nobody would tell. On another machine a launcher stands for it.
    machine, _, number = os.environ[END_WITH_PARENT].rpartition(" ")
    if machine == socket.gethostname() and number.isdigit() and not _is_alive(int(number)):
        sys.exit(STOPPED)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, so that it is there
        return True
    return True


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(STOPPED)
