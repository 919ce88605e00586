"""Exporting a run's policy: a folder that plain transformers loads, with its model card."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.config.sections import ModelConfig
from saei.config.yaml import read_yaml
from saei.engine import checkpoint
from saei.errors import CheckpointError, ConfigError
from saei.policy import Policy
from saei.policy.load.adapters import saved_adapter
from saei.report.model_card import model_card
from saei.runtime.files import disk_errors
from saei.runtime.run_dir import RunDir


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported.

    Attributes:
        folder: Where it is.
        checkpoint: The checkpoint that it is of.
        merged: Whether an adapter was merged into the weights.
    """

    folder: Path
    checkpoint: Path
    merged: bool


def export(path: Path, folder: Path, *, merge: bool) -> Exported:
    """Write model, processor, tokenizer, generation settings and model card of a run, or of one of its checkpoints.

    Args:
        path: A run, whose newest checkpoint is taken, or a checkpoint of it.
        folder: Where it is written; there must be none, or an empty one.
        merge: Add an adapter to the weights.

    Raises:
        SaeiError: If there is no checkpoint, the folder is not empty, or an adapter is not to be merged.
    """
    path, folder = path.expanduser().absolute(), folder.expanduser()
    run, of_run = _run_and_checkpoint(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "A policy is exported into a folder of its own.",
            reason=f"{folder} is there already.",
            remedy="Give another --output.",
        )
    adapter = saved_adapter(str(of_run), None) is not None
    if adapter and not merge:
        raise ConfigError(
            "Plain transformers loads a model, not an adapter.",
            reason=f"{of_run} holds an adapter.",
            remedy=f"Add --merge to add it to the weights; with peft, {of_run} can be loaded as it is.",
        )
    config, _ = run.read()
    policy = Policy.load(_model(config, of_run))
    card = model_card(
        config,
        read_yaml(run.path / "config.yaml"),
        run.metrics(),
        step=checkpoint.step_of(of_run),
        merged=adapter,
    )
    with disk_errors("An export is written whole or not at all.", folder, "Free some space, or give another --output."):
        _write(policy, card, folder)
    return Exported(folder, of_run, adapter)


def _run_and_checkpoint(path: Path) -> tuple[RunDir, Path]:
    if (path / "config.yaml").is_file():
        run = RunDir(path)
        return run, checkpoint.latest(run.checkpoints)
    if (path / checkpoint.STATE).is_file() and (path.parents[1] / "config.yaml").is_file():
        return RunDir(path.parents[1]), path
    raise CheckpointError(
        "What is exported is a run or one of its checkpoints.",
        reason=f"{path} is neither.",
        remedy="Name one of the folders that `saei runs` lists.",
    )


def _model(config: dict[str, Any], path: Path) -> ModelConfig:
    """Return how the checkpoint is loaded: in the run's type, on the CPU, its adapter merged."""
    section = config.get("model")
    dtype = section.get("dtype", "auto") if isinstance(section, dict) else "auto"
    return ModelConfig.model_validate({"path": str(path), "dtype": dtype, "device": "cpu"})


def _write(policy: Policy, card: str, folder: Path) -> None:
    temporary = folder.absolute().with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        policy.save(temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
