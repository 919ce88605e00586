"""The folder of a run: making it, opening it again, and the files in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from saei.config import consent
from saei.config.changes import changes
from saei.config.format import FORMAT, without_removed
from saei.config.run import RunConfig, dump, validate
from saei.config.yaml import read_yaml, write_yaml
from saei.errors import CheckpointError, ConfigError, shown
from saei.runtime.files import disk_errors, read_jsonl, slug, write_whole
from saei.runtime.lock import FolderLock
from saei.runtime.old_samples import read_old_samples
from saei.runtime.provenance import provenance
from saei.runtime.sample_files import FOLDER as SAMPLES
from saei.runtime.sample_files import drop_later_samples, read_samples_of, sample_files, write_samples
from saei.runtime.samples import GroupSample
from saei.runtime.step_lines import append_line, drop_later_steps, last_step

HELD_OUT = "held_out.jsonl"
"""File that says which held-out examples were answered rightly at each evaluation."""

ENGINE = "saei"
"""The engine that can resume a run; others record their own names."""


class RunDir:
    """The folder of a run.

    Args:
        path: ``runs/<name>``.

    Attributes:
        lock: The right to write into the folder; a run holds it while it trains.
        notes: What ``open`` and ``read`` left out of the configuration of a run by an older version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FolderLock(path)
        self.notes: list[str] = []

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path alone: the lock belongs to one process."""
        return RunDir, (self.path,)

    @classmethod
    def create(cls, config: RunConfig, *, engine: str = ENGINE) -> RunDir:
        """Make the folder of a new run, lock it and write the resolved configuration.

        Args:
            config: The run's configuration.
            engine: Name of the engine that trains.

        Raises:
            ConfigError: If the folder holds a run already, is another process's or cannot be written.
        """
        run = cls(_new_folder(config) if config.output.name is None else config.output.root / config.output.name)
        run.lock.acquire()
        try:
            cls.check_new(config)  # again, now under the lock: another run may have begun and ended since
            run.record(config, engine=engine)
        except ConfigError:
            run.lock.release()
            raise
        return run

    @staticmethod
    def check_new(config: RunConfig) -> None:
        """Refuse the name of an existing run, before anything is loaded.

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
        """Write the resolved configuration and the versions the run is made with; a resumed run may have changed them.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        try:
            record = {
                "format": FORMAT,
                "config": dump(config),
                "engine": engine,
                "started": self._started(),
                **provenance(config),
                "changes": [[each.path, each.value, each.default] for each in changes(dump(config))],
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
            trust: Use the code and the servers that the folder names even if another user wrote it.

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
        """The engine that trained it; runs older than this record are taken for ``ENGINE``'s.

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
            append_line(self.path / "metrics.jsonl", metrics)

    def append_answers(self, answers: Mapping[str, Any]) -> None:
        """Add a line to ``held_out.jsonl``.

        Raises:
            OSError: If the disk refuses.
        """
        append_line(self.path / HELD_OUT, answers)

    def write_samples(self, step: int, groups: Sequence[GroupSample]) -> int:
        """Write the samples of an evaluation, and return the size of their file in bytes.

        Raises:
            OSError: If the disk refuses.
        """
        return write_samples(self.path, step, groups)

    def samples(self) -> tuple[list[GroupSample], list[str]]:
        """Return all groups that were kept, in the order of steps, and which files could not be read and why.

        A run that was begun by an earlier version has some in its older form, which come first.
        """
        groups, problems = read_old_samples(self.path), []
        for file in sample_files(self.path).values():
            try:
                groups += read_samples_of(file)
            except (OSError, ValueError) as error:
                problems.append(f"{file.relative_to(self.path)}: {shown(str(error), 200)}")
        return groups, problems

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``."""
        return read_jsonl(self.path / "metrics.jsonl")

    @property
    def steps_written(self) -> int:
        """The last step of ``metrics.jsonl``, 0 for none."""
        return last_step(self.metrics())

    def rewind(self, step: int) -> int:
        """Drop metrics and samples of steps after ``step``, which a resumed run will write again.

        Returns:
            The number of broken lines before the last of each file; they are dropped, too.

        Raises:
            CheckpointError: If the disk refuses.
        """
        broken = 0
        for file in (self.path / name for name in ("metrics.jsonl", HELD_OUT, "samples.jsonl", "views.jsonl")):
            with disk_errors("A run that goes on drops what it will write again.", file, self._disk_remedy):
                broken += drop_later_steps(file, step)
        with disk_errors("A run that goes on drops what it will write again.", self.path / SAMPLES, self._disk_remedy):
            drop_later_samples(self.path, step)
        return broken

    @property
    def _disk_remedy(self) -> str:
        """The remedy for a full or missing disk."""
        return (
            f"Free some space and go on with `saei train --resume {self.path}`, from the newest checkpoint; without "
            "one the run begins again."
        )

    def _started(self) -> str:
        """Return when the run began, as it was recorded before it was resumed."""
        try:
            recorded = self._record().get("started")
        except CheckpointError:  # a new run
            recorded = None
        return str(recorded or datetime.now().astimezone().isoformat(timespec="seconds"))

    def _record(self) -> dict[str, Any]:
        try:
            return read_yaml(self.path / "config.yaml")
        except ConfigError as error:
            raise _no_run(error.reason) from error


def _no_run(reason: str) -> CheckpointError:
    return CheckpointError(
        "--resume takes the folder of a run, with its config.yaml.",
        reason=reason,
        remedy="List the runs in your output folder and give one of them.",
    )


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
