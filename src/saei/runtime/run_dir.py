"""A run on disk: its configuration, one line of metrics a step, samples and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from saei.config import consent
from saei.config.format import FORMAT, without_removed
from saei.config.run import RunConfig, dump, validate
from saei.config.yaml import read_yaml, write_yaml
from saei.errors import CheckpointError, ConfigError
from saei.runtime.files import disk_errors, json_lines, slug, write_whole
from saei.runtime.lock import FolderLock
from saei.runtime.provenance import provenance
from saei.types import Group

ENGINE = "saei"
"""The engine that can resume a run; others record their own names."""


class RunDir:
    """The folder of a run.

    Args:
        path: ``runs/<name>``.

    Attributes:
        lock: The right to write into it, which whoever trains holds.
        notes: What ``open`` and ``read`` left out of the configuration of an older run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FolderLock(path)
        self.notes: list[str] = []

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process as a path alone: a lock is one process's."""
        return RunDir, (self.path,)

    @classmethod
    def create(cls, config: RunConfig, *, engine: str = ENGINE) -> RunDir:
        """Make a new run's folder, which no other run gets, lock it and write the resolved configuration.

        Args:
            config: The run's configuration.
            engine: Who trains.

        Raises:
            ConfigError: If the folder holds a run already, is another process's or cannot be written.
        """
        run = cls(_new_folder(config) if config.output.name is None else config.output.root / config.output.name)
        run.lock.acquire()
        try:
            cls.check_new(config)  # once more, since the lock is held: another run may have begun and ended meanwhile
            run.record(config, engine=engine)
        except ConfigError:
            run.lock.release()
            raise
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
            try:
                goes_on = RunDir(path).engine == ENGINE
            except CheckpointError:
                goes_on = False
            raise ConfigError(
                "A run needs a folder of its own.",
                reason=f"{path} holds a run already.",
                remedy=f"Continue it with `saei train --resume {path}`, or give another --name."
                if goes_on
                else "Give another --name.",
            )

    def record(self, config: RunConfig, *, engine: str = ENGINE) -> None:
        """Write the resolved configuration and what the run is made with, also when a resumed run changed it.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        try:
            record = {
                "format": FORMAT,
                "config": dump(config),
                "engine": engine,
                **provenance(config),
                "signatures": consent.sign(config),
            }
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.yaml", write_yaml(record))
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
            CheckpointError: If the folder holds no run, or that of a later version of saei.
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
            CheckpointError: If the folder holds no run, or that of a later version of saei.
        """
        file, record = self.path / "config.yaml", self._record()
        data, signatures = record.get("config"), record.get("signatures") or []
        if not isinstance(data, dict) or not isinstance(signatures, list):
            raise _no_run(f"{file} has no section `config`.")
        if not isinstance(data.get("plugins", []), list):
            raise _no_run(f"The plugins in {file} are no list.")
        data, self.notes = without_removed(record, where=str(self.path))
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
        """Add a line to ``metrics.jsonl``; numbers that are not finite are written as null.

        Raises:
            CheckpointError: If the disk refuses.
        """
        with disk_errors(
            "A run writes a line of metrics at every step.", self.path / "metrics.jsonl", self._disk_remedy
        ):
            self._append("metrics.jsonl", metrics)

    def append_samples(self, step: int, groups: Iterable[tuple[Group, Iterable[float]]]) -> None:
        """Add each response of some groups to ``samples.jsonl``, with origin, reward and mean entropy.

        The question is that of the view it was drawn from, the answer that of the view it is trained under.

        Raises:
            OSError: If the disk refuses.
        """
        for group, rewards in groups:
            for n, (response, reward) in enumerate(zip(group.responses, rewards, strict=True)):
                self._append(
                    "samples.jsonl",
                    {
                        "step": step,
                        "example": group.example.id,
                        "question": group.views[group.sampled_from[n]].example.question,
                        "answer": group.update_view(n).example.answer,
                        "origin": group.origin(n),
                        "reward": reward,
                        "entropy": float(response.entropy_T.mean()) if len(response) else None,
                        "text": response.text,
                    },
                )

    def append_views(self, step: int, groups: Iterable[Group]) -> None:
        """Add how each view that an intervention made was made to ``views.jsonl``, and what it asks if that changed.

        Raises:
            OSError: If the disk refuses.
        """
        for group in groups:
            for number, record in enumerate(group.records, start=1):
                view = group.views[number]
                line: dict[str, Any] = {
                    "step": step,
                    "example": group.example.id,
                    "view": number,
                    "origin": view.origin,
                    "seed": record.seed,
                    "strength": record.strength,
                    "distances": {surface: asdict(distance) for surface, distance in record.distances.items()},
                }
                if view.example.question != group.example.question:
                    line |= {"question": view.example.question, "answer": view.example.answer}
                if record.trace is not None:
                    line["selected"] = [selected_T.nonzero()[:, 0].tolist() for selected_T in record.trace.selected_NT]
                    line["gradient_signs"] = record.trace.gradient_signs
                self._append("views.jsonl", line)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``."""
        return read_jsonl(self.path / "metrics.jsonl")

    @property
    def steps_written(self) -> int:
        """The last step of ``metrics.jsonl``, 0 for none; a line that is damaged may have no step."""
        steps = map(_step_of, self.metrics())
        return int(max((step for step in steps if step < math.inf), default=0))

    def rewind(self, step: int) -> int:
        """Drop metrics, samples and views of steps after ``step``, which a resumed run will write again.

        Returns:
            How many lines before the last were broken; they are dropped, too.

        Raises:
            CheckpointError: If the disk refuses.
        """
        broken = 0
        for file in (self.path / name for name in ("metrics.jsonl", "samples.jsonl", "views.jsonl")):
            with disk_errors("A run that goes on drops what it will write again.", file, self._disk_remedy):
                if not file.exists():
                    continue
                lines = list(json_lines(file.read_bytes()))
                remaining = [line for line, value in lines if value is not None and _step_of(value) <= step]
                write_whole(file, b"".join(line + b"\n" for line in remaining))
                broken += sum(value is None for _, value in lines[:-1])  # the last one is cut off where a process died
        return broken

    @property
    def _disk_remedy(self) -> str:
        """What to do when the disk refused."""
        return (
            f"Free some space and go on with `saei train --resume {self.path}`, from the newest checkpoint; without "
            "one the run begins again."
        )

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
    """Return the lines of a file; broken ones are left out, such as a last one that was cut off with its process."""
    content = file.read_bytes() if file.exists() else b""
    return [value for _, value in json_lines(content) if value is not None]


def _no_run(reason: str) -> CheckpointError:
    return CheckpointError(
        "--resume takes the folder of a run, with its config.yaml.",
        reason=reason,
        remedy="List the runs in your output folder and give one of them.",
    )


def _step_of(line: Mapping[str, Any]) -> float:
    """Return the step of a line, infinity for a line without one."""
    step = line.get("step")
    return step if isinstance(step, int) else math.inf


def _new_folder(config: RunConfig) -> Path:
    """Make and return a folder named after task, sampler and time; a number follows where that one is taken.

    Raises:
        ConfigError: If it cannot be made.
    """
    root = config.output.root
    name = f"{slug(config.task.type)}-{slug(config.sampler.type)}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = root / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(
            "The folder of all runs has to be writable.",
            reason=f"{root}: {error.strerror or error}.",
            remedy="Choose another output.root.",
        ) from error
    raise AssertionError("numbers do not end")
