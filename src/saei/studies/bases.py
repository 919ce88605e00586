"""Building the bases of a study, each in a process of its own, until the gate has accepted as many as it declares."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from saei.errors import ConfigError, TrainingError
from saei.runtime.interrupt import StopRequest
from saei.studies.claims import Claims
from saei.studies.ledger import ACCEPTED, REJECTED, Ledger
from saei.studies.plan import Base
from saei.studies.process import ending_with_this
from saei.studies.scheduler import EVERY_S

LOG = "build.txt"


def build_command(base: Base) -> list[str]:
    """Return the command that builds a base."""
    assert base.recipe is not None
    return [sys.executable, "-m", "saei.studies.build", base.path, base.recipe, str(base.seed)]


def build_all(
    wanted: Callable[[], Sequence[Base]],
    *,
    jobs: int,
    claims: Claims,
    ledger: Ledger,
    say: Callable[[str], None],
    command: Callable[[Base], list[str]] = build_command,
) -> bool:
    """Build what is missing; a base that the gate rejects is noted, and the next candidate takes its place.

    Args:
        wanted: Returns the bases that are needed, as they stand: those that are built, and candidates for the others.
        jobs: Bases at a time.
        claims: Says which bases this process builds; those of other processes are waited for.
        ledger: Gets a line for each base, accepted or rejected.
        say: Told what begins and ends.
        command: Makes the command that builds a base.

    Returns:
        Whether all are there; not, if somebody stopped it.

    Raises:
        TrainingError: If a base could not be built.
    """
    running: dict[str, tuple[subprocess.Popen[bytes], Base]] = {}
    with StopRequest(lambda: say("Stopping: bases that are not whole are built again.")) as stop:
        try:
            while not stop.requested:
                for path, (process, base) in list(running.items()):
                    if process.poll() is not None:
                        del running[path]
                        _note(base, process.returncode, ledger, say)
                        claims.release(_claim(base))
                missing = [base for base in wanted() if base.built is None]
                if not missing and not running:
                    return True
                for base in missing:
                    if len(running) < jobs and base.path not in running and claims.take(_claim(base)):
                        if base.built is not None:  # another process has just built it
                            claims.release(_claim(base))
                            continue
                        running[base.path] = (_start(base, command), base)
                        say(f"Building {base.label}, {base.known_as}.")
                time.sleep(EVERY_S)
            return False
        finally:
            for process, base in running.values():
                process.kill()
                process.wait()
                claims.release(_claim(base))


def _claim(base: Base) -> str:
    return Path(base.path).name


def _start(base: Base, command: Callable[[Base], list[str]]) -> subprocess.Popen[bytes]:
    folder = Path(base.path)
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}-{LOG}").open("wb") as log:
            return subprocess.Popen(
                command(base),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ending_with_this(),
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigError(
            "Bases are built in a folder that can be written.",
            reason=f"{folder}: {error.strerror or error}.",
            remedy="Give another --output.",
        ) from error


def _note(base: Base, code: int, ledger: Ledger, say: Callable[[str], None]) -> None:
    """Note what became of a base.

    Raises:
        TrainingError: If there is none.
    """
    if base.built is None:
        log = Path(base.path).with_name(f"{Path(base.path).name}-{LOG}")
        raise TrainingError(
            "A study needs its bases.",
            reason=f"{base.label} was not built (exit code {code}); {log} says why.",
            remedy="Mend what is named there; the same command then goes on.",
        )
    verdict = ACCEPTED if base.built else REJECTED
    ledger.add(verdict, base=base.known_as)
    say(f"{base.label} is built, and its gate {verdict} it.")
