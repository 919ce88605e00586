"""A run on disk: its configuration, one line of metrics a step, samples and pictures."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saei.config import RunConfig, dump, validate
from saei.config_yaml import read_yaml, write_yaml
from saei.engine import consent
from saei.errors import CheckpointError, ConfigError
from saei.types import Group

RECORDED = ("saei", "torch", "transformers", "accelerate", "numpy")
"""Distributions whose versions a run records."""


ENGINE = "saei"
"""The engine that can resume a run; others record their own names."""


class RunDir:
    """The folder of a run.

    Args:
        path: ``runs/<name>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: RunConfig, *, engine: str = ENGINE) -> RunDir:
        """Make a new run's folder and write its resolved configuration.

        Args:
            config: The run's configuration.
            engine: Who trains.

        Raises:
            ConfigError: If the folder holds a run already or cannot be written.
        """
        cls.check_new(config)
        run = cls(config.output.root / (config.output.name or _new_name(config)))
        run.record(config, engine=engine)
        return run

    @staticmethod
    def check_new(config: RunConfig) -> None:
        """Refuse a name that is taken, before anything is loaded.

        Raises:
            ConfigError: If the folder that the configuration names holds a run already.
        """
        if config.output.name is None:
            return
        path = config.output.root / config.output.name
        if (path / "config.yaml").exists():
            goes_on = RunDir(path).engine == ENGINE
            raise ConfigError(
                "A run needs a folder of its own.",
                reason=f"{path} holds a run already.",
                remedy=f"Continue it with `saei train --resume {path}`, or give another --name."
                if goes_on
                else "Give another --name.",
            )

    def record(self, config: RunConfig, *, engine: str = ENGINE) -> None:
        """Write the resolved configuration with versions and git revision, also when a resumed run changed it.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            record = {
                "config": dump(config),
                "engine": engine,
                "versions": versions(),
                "git": _git_revision(),
                "signatures": consent.sign(config),
            }
            temporary = self.path / "config.tmp"
            temporary.write_text(write_yaml(record), encoding="utf-8")
            os.replace(temporary, self.path / "config.yaml")
        except OSError as error:
            raise ConfigError(
                "The run's folder has to be writable.",
                reason=f"{self.path}: {error}.",
                remedy="Choose another output.root.",
            ) from error

    @classmethod
    def open(cls, path: Path, *, trust: bool = False) -> tuple[RunDir, RunConfig]:
        """Return an existing run and its configuration.

        Args:
            path: The run's folder.
            trust: Use the code and the servers that the folder names, whoever wrote it.

        Raises:
            CheckpointError: If the folder holds no run.
            ConfigError: If it names code or servers, and this user neither started the run nor trusts it.
        """
        run = cls(path)
        data, signatures = run.read()
        plugins = consent.plugin_names(data.get("plugins", ()))
        consent.check(plugins, signatures, folder=path, trust=trust)
        config = validate(data)
        consent.check(consent.section_names(config), signatures, folder=path, trust=trust)
        return run, config

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """Return the configuration as plain data, not validated, and its signatures; no code that it names is run.

        Raises:
            CheckpointError: If the folder holds no run.
        """
        file, record = self.path / "config.yaml", self._record()
        data, signatures = record.get("config"), record.get("signatures") or []
        if not isinstance(data, dict) or not isinstance(signatures, list):
            raise _no_run(f"{file} has no section `config`.")
        if not isinstance(data.get("plugins", []), list):
            raise _no_run(f"The plugins in {file} are no list.")
        return data, list(map(str, signatures))

    @property
    def engine(self) -> str:
        """Who trained it; runs of before this was recorded are taken for our own.

        Raises:
            CheckpointError: If the folder holds no run.
        """
        return str(self._record().get("engine", ENGINE))

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``; numbers that are not finite are written as null."""
        self._append("metrics.jsonl", metrics)

    def append_samples(self, step: int, groups: Iterable[tuple[Group, Iterable[float]]]) -> None:
        """Add each response of some groups to ``samples.jsonl``, with origin, reward and mean entropy."""
        for group, rewards in groups:
            for n, (response, reward) in enumerate(zip(group.responses, rewards, strict=True)):
                self._append(
                    "samples.jsonl",
                    {
                        "step": step,
                        "example": group.example.id,
                        "question": group.example.question,
                        "answer": group.example.answer,
                        "origin": group.origin(n),
                        "reward": reward,
                        "entropy": float(response.entropy_T.mean()) if len(response) else None,
                        "text": response.text,
                    },
                )

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``."""
        return read_jsonl(self.path / "metrics.jsonl")

    def rewind(self, step: int) -> None:
        """Drop metrics and samples of steps after ``step``, which a resumed run will write again."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            file = self.path / name
            if file.exists():
                kept = [line for line in read_jsonl(file) if line["step"] <= step]
                temporary = file.with_suffix(".tmp")
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                os.replace(temporary, file)

    def _record(self) -> dict[str, Any]:
        try:
            return read_yaml(self.path / "config.yaml")
        except ConfigError as error:
            raise _no_run(error.reason) from error

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; a last line that was cut off when the process died is left out."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _no_run(reason: str) -> CheckpointError:
    return CheckpointError(
        "--resume takes the folder of a run, with its config.yaml.",
        reason=reason,
        remedy="List the runs in your output folder and give one of them.",
    )


def _new_name(config: RunConfig) -> str:
    return f"{config.task.type}-{config.sampler.type}-{datetime.now():%Y%m%d-%H%M%S}".replace("/", "_")


def versions() -> dict[str, str]:
    """Return the versions that a run records."""
    return {"python": platform.python_version(), **{name: version(name) for name in RECORDED}}


def _git_revision() -> str | None:
    """Return the commit of the working folder, None outside of a checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
