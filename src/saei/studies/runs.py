"""Runs as processes of their own: begun, gone on with after a kill, and used again where they are complete.

A run is known by its configuration: what is complete under an equal one is not repeated, whoever asked for it. Its
process is `python -m saei.studies.process FOLDER`. Any machine that sees the folder may be given this command: it
begins the run, goes on with it, or finds it complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.config.run import RunConfig, dump
from saei.engine import checkpoint
from saei.runtime.files import read_jsonl, write_whole
from saei.runtime.lock import FolderLock
from saei.runtime.run_dir import RunDir
from saei.studies.final.settings import FINAL, FinalSettings

IDENTITY = "configuration.json"
"""Holds the hash of what was asked for, and the settings of the final evaluation; ``config.yaml`` holds what came of
it, such as the revision of a data set."""

STARTS = "starts.jsonl"
"""Has a line for each process that was started for the run of a study: the commit of its code."""

LOG = "log.txt"
"""What a run's processes print."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that is wanted.

    Attributes:
        label: What people call it, such as ``lock-in, GRPO, seed 1``.
        config: Its configuration, with ``output.root`` and ``output.name``.
        known_as: Its hash where that is not of the configuration as it stands, such as for a base whose folder is
            another on each machine.
        final: Its final evaluation, None for a run that ends with its last step.
    """

    label: str
    config: RunConfig
    known_as: str | None = None
    final: FinalSettings | None = None

    @property
    def identity(self) -> str:
        """The hash that it is known by."""
        return self.known_as or configuration_hash(self.config, self.final)

    @property
    def folder(self) -> Path:
        """Where it is: the configuration's folder, or beside it if a run of another configuration is there."""
        root, name, identity = self.config.output.root, self.config.output.name, self.identity
        assert name is not None, "a planned run has a name"
        there = root / name
        taken = bool(_checkpoints(there)) and _identity_of(there) != identity
        return root / f"{name}-{identity[:8]}" if taken else there

    @property
    def responses(self) -> int:
        """Responses that it draws, for training and in evaluations, the final one included: how much work it is."""
        config = self.config
        a_step: int = config.training.prompts_per_step * config.sampler.build().plan().group_size
        evaluation = config.evaluation
        an_evaluation = (
            evaluation.examples * evaluation.responses + evaluation.probe_examples * evaluation.probe_responses
        )
        evaluations = (1 + config.training.steps // evaluation.every) * an_evaluation
        return config.training.steps * a_step + evaluations + (self.final.drawn if self.final else 0)


def configuration_hash(config: RunConfig, final: FinalSettings | None = None) -> str:
    """Return the SHA-256 of what decides a run's results: all of its configuration but the section ``output``.

    A plugin that is a file counts with its content. The final evaluation counts where there is one.
    """
    decisive: dict[str, Any] = {name: value for name, value in dump(config).items() if name != "output"}
    decisive["plugins"] = [
        hashlib.sha256(Path(plugin).read_bytes()).hexdigest() if Path(plugin).is_file() else plugin
        for plugin in config.plugins
    ]
    if final is not None:
        decisive["final"] = final.model_dump(mode="json")
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def is_complete(folder: Path, steps: int) -> bool:
    """Return whether the run in a folder has a checkpoint of its last step, and the final evaluation asked for."""
    return is_trained(folder, steps) and (final_of(folder) is None or (folder / FINAL).is_file())


def is_trained(folder: Path, steps: int) -> bool:
    """Return whether the run in a folder has a checkpoint of its last step."""
    checkpoints = _checkpoints(folder)
    return bool(checkpoints) and checkpoint.step_of(checkpoints[-1]) >= steps


def final_of(folder: Path) -> FinalSettings | None:
    """Return the final evaluation that a run is to have, None for one that ends with its last step."""
    settings = _asked_for(folder).get("final")
    return None if settings is None else FinalSettings.model_validate(settings)


def prepare(planned: PlannedRun) -> Path:
    """Make the folder of a run ready for its process, and return it.

    A run without a checkpoint begins again; one with checkpoints is left as it is.

    Raises:
        ConfigError: If another process writes there, or the folder is not writable.
    """
    folder = planned.folder
    if _checkpoints(folder):
        return folder
    with FolderLock(folder):
        for entry in folder.iterdir():
            if entry.name not in ("lock", LOG):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    output = planned.config.output.model_copy(update={"name": folder.name})
    run = RunDir.create(planned.config.model_copy(update={"output": output}))
    final = {} if planned.final is None else {"final": planned.final.model_dump(mode="json")}
    write_whole(folder / IDENTITY, json.dumps({"sha256": planned.identity, **final}) + "\n")
    run.lock.release()
    return folder


def note_start(folder: Path, made_with: Mapping[str, Any]) -> None:
    """Note in a prepared run's folder which code does it, for whoever takes the run over."""
    with (folder / STARTS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(made_with) + "\n")


def starts_of(folder: Path) -> list[dict[str, Any]]:
    """Return what was noted of each start of a run; empty if nobody did."""
    return read_jsonl(folder / STARTS)


def command(folder: Path, launcher: Sequence[str] = (sys.executable,)) -> list[str]:
    """Return the command of a prepared run's process, the same for its begin and for going on.

    Args:
        folder: The run's folder.
        launcher: What starts Python modules, such as ``("accelerate", "launch")``.
    """
    return [*launcher, "-m", "saei.studies.process", str(folder)]


def _checkpoints(folder: Path) -> list[Path]:
    return checkpoint.complete_in(folder / "checkpoints") if (folder / "config.yaml").is_file() else []


def _identity_of(folder: Path) -> str | None:
    """Return the hash of the configuration that was asked for, None for a run that was started otherwise."""
    identity = _asked_for(folder).get("sha256")
    return None if identity is None else str(identity)


def _asked_for(folder: Path) -> dict[str, Any]:
    """Return what a prepared run's folder says was asked for; empty for a run that was started otherwise."""
    try:
        return dict(json.loads((folder / IDENTITY).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def last_words(folder: Path, lines: int = 4) -> str:
    """Return the last lines that a run's processes printed."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
