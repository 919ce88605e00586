"""Checkpoints: written under a temporary name with checksums, then renamed; a model folder that transformers loads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from saei.config.run import RunConfig
from saei.errors import CheckpointError
from saei.policy import Policy
from saei.runtime.checksums import REMEDY, verify_checksums, write_checksums
from saei.runtime.processes import Processes
from saei.runtime.run_dir import ENGINE, RunDir

STATE = "trainer.pt"


def folder_of(folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint, such as ``step-000040``, below that of all checkpoints."""
    return folder / f"step-{step:06d}"


def save(
    folder: Path, step: int, policy: Policy, state: Mapping[str, Any], *, keep: int, best: int | None = None
) -> Path:
    """Write ``step-000040`` below ``folder`` and delete all but the newest ``keep`` and the best one.

    Args:
        folder: The run's checkpoints.
        step: Steps done.
        policy: Its model, tokenizer and image processor are saved as one Hugging Face folder.
        state: Everything else that the run needs to resume: tensors, numbers, strings, lists and mappings.
        keep: Checkpoints kept.
        best: Step of a checkpoint that is kept as well.

    Raises:
        CheckpointError: If the disk refuses or a state could not be read back; older checkpoints are untouched then.
    """
    _check_plain(state, "state")
    target = folder_of(folder, step)
    temporary = folder / f".{target.name}.tmp"
    try:
        for leftover in folder.glob(".step-*.*"):  # of a process that was killed while it wrote or deleted
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        policy.save(temporary)
        torch.save(dict(state), temporary / STATE)
        write_checksums(temporary)
        _delete(target)
        os.replace(temporary, target)
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk raises any of these
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            "A checkpoint has to fit on the disk.",
            reason=f"{target}: {error} ({_free_space(folder)}).",
            remedy="Free some space and go on with --resume; earlier checkpoints are kept.",
        ) from error
    for old in complete_in(folder)[:-keep]:
        if step_of(old) != best:
            _delete(old)
    return target


def _free_space(folder: Path) -> str:
    """Return how much space a disk has left, which torch's own error for a full one does not mention."""
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.0f} MB are free there"
    except OSError:
        return "the folder is gone"


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint, renamed first, so that a process that is killed meanwhile leaves no half of one."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".{checkpoint.name}.old")
        os.replace(checkpoint, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _check_plain(value: Any, path: str) -> None:
    """Refuse what could be written but not read back, since reading unpickles tensors and plain data only.

    Raises:
        CheckpointError: Naming the place.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_plain(inner, f"{path}.{number}")
    elif not isinstance(value, str | int | float | bool | torch.Tensor | None):
        raise CheckpointError(
            "States hold tensors, numbers, strings, lists and mappings.",
            reason=f"{path} is a {type(value).__name__}.",
            remedy="Return plain data from the strategy's state_dict.",
        )


def complete_in(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, in the order of their steps."""
    named = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name, re.ASCII))
    return sorted((path for path in named if (path / STATE).is_file()), key=step_of)


def latest(folder: Path) -> Path:
    """Return the newest checkpoint.

    Raises:
        CheckpointError: If there is none.
    """
    checkpoints = complete_in(folder)
    if not checkpoints:
        raise CheckpointError(
            "A run goes on from its newest checkpoint.",
            reason=f"{folder} has none: the run ended before its first.",
            remedy="`saei train --resume` begins it again.",
        )
    return checkpoints[-1]


def start_of(run: RunDir, config: RunConfig) -> Path | None:
    """Return the checkpoint that a run goes on from, None for a run that ended before its first and begins again.

    Raises:
        CheckpointError: If the checkpoints that it had are gone, or another engine wrote them.
    """
    checkpoints = complete_in(run.checkpoints)
    if checkpoints:
        return checkpoints[-1]
    if run.engine != ENGINE:
        raise CheckpointError(
            "saei resumes runs of its own engine.",
            reason=f"{run.path} was trained by {run.engine}, whose checkpoints hold no state of samplers and streams.",
            remedy="Start a new run: from its last checkpoint (--model), if it has one.",
        )
    done = run.steps_written
    if done > config.output.checkpoint_every or done >= config.training.steps:
        raise CheckpointError(
            "A run goes on from its newest checkpoint.",
            reason=f"{run.checkpoints} has none, and the run did {done} steps: they were deleted.",
            remedy="Start it anew under another name.",
        )
    return None


def step_of(checkpoint: Path) -> int:
    """Return the number of steps that were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state that ``save`` wrote; nothing but tensors and plain data is unpickled.

    Raises:
        CheckpointError: If the file is damaged.
    """
    verify_checksums(checkpoint, lambda name: name == STATE)
    try:
        state = torch.load(checkpoint / STATE, weights_only=True, map_location="cpu")
    except Exception as error:  # zipfile, pickle and torch raise errors of all kinds for a damaged file
        raise CheckpointError(
            "A checkpoint's trainer.pt has to be readable.",
            reason=f"{checkpoint}: {type(error).__name__}: {error}.",
            remedy=REMEDY,
        ) from error
    return dict(state)


def state_of_rank(state: Mapping[str, Any], names: Sequence[str], processes: Processes) -> dict[str, Any]:
    """Return what a process resumes from: the part of a checkpoint that the process of the same rank wrote.

    The number of processes may change if all parts are equal, as those of built-in strategies are.

    Args:
        state: What ``load_state`` returned.
        names: Names of what has a state.
        processes: The processes that go on.

    Raises:
        CheckpointError: If states differed and there were more or fewer processes.
    """
    first = {name: state[name] for name in names}
    written: list[dict[str, Any]] = [first, *state.get("others", [])]
    if len(written) == processes.count:
        return written[processes.rank]
    if all(_same(part, first) for part in written):
        return first
    raise CheckpointError(
        "Strategies whose states differ between processes go on in as many processes.",
        reason=f"{len(written)} wrote the checkpoint, {processes.count} were launched.",
        remedy=f"Launch {len(written)}.",
    )


def _same(left: Any, right: Any) -> bool:
    """Return whether two states are equal, tensors bit for bit."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    return bool(left == right)
