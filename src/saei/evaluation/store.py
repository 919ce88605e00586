"""An evaluation on disk: its settings, every answer, and the result."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from saei.config.overrides import changed
from saei.config.sections import ModelConfig
from saei.errors import CheckpointError, ConfigError
from saei.evaluation.records import Record
from saei.intake.reports import DROPPED, ExampleReport
from saei.runtime.files import check_folder, disk_errors, read_jsonl, safe_name, write_whole
from saei.runtime.lock import FolderLock
from saei.runtime.run_dir import RunDir

Line = TypeVar("Line", Record, ExampleReport)

SETTINGS = "settings.json"
ANSWERS = "answers.jsonl"
RESULT = "result.json"

CONDITIONS = "robust.json"
"""The result of an evaluation under several conditions."""


class EvaluationDir:
    """The folder of an evaluation.

    Args:
        path: Such as ``runs/eval/<name>``.

    Attributes:
        lock: The right to write into the folder; an evaluation holds it while it runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FolderLock(path)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Make and lock the folder, or lock an existing one of the same settings.

        Raises:
            ConfigError: If the folder belongs to another evaluation, another process writes into it, or it cannot be
                written.
        """
        self.lock.acquire()
        try:
            self._begin(settings)
        except ConfigError:
            self.lock.release()
            raise

    def _begin(self, settings: Mapping[str, Any]) -> None:
        self.check(settings)
        file = self.path / SETTINGS
        if file.exists():
            return
        try:
            write_whole(file, json.dumps(settings, indent=2))
        except OSError as error:
            raise ConfigError(
                "The folder of an evaluation has to be writable.",
                reason=f"{self.path}: {error}.",
                remedy="Give another --output.",
            ) from error

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse what ``begin`` would refuse, without making the folder.

        Raises:
            ConfigError: If the folder belongs to another evaluation or to a run, or cannot be written.
        """
        if (self.path / SETTINGS).exists():
            different = changed(self.settings(), settings)
            if different:
                raise ConfigError(
                    "An evaluation goes on with the settings that it began with.",
                    reason=f"{self.path} has other {', '.join(different)}.",
                    remedy="Give the settings of before, or another --output.",
                )
        elif any((self.path / name).exists() for name in (ANSWERS, "config.yaml")):
            raise ConfigError(
                "An evaluation needs a folder of its own.",
                reason=f"{self.path} holds a run, or answers without {SETTINGS}.",
                remedy="Give another --output.",
            )
        check_folder(self.path)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the evaluation began with.

        Raises:
            CheckpointError: If the folder holds no evaluation.
        """
        return self._read(SETTINGS)

    @property
    def complete(self) -> bool:
        """Whether there is a result."""
        return (self.path / RESULT).exists()

    def result(self) -> dict[str, Any]:
        """Return the result.

        Raises:
            CheckpointError: If there is none.
        """
        return self._read(RESULT)

    def records(self) -> list[Record]:
        """Return all answers.

        Raises:
            CheckpointError: If they were written by another version.
        """
        return _built(Record, self.path / ANSWERS)

    def left_out(self) -> list[ExampleReport]:
        """Return the examples that could not be used.

        Raises:
            CheckpointError: If they were written by another version.
        """
        return _built(ExampleReport, self.path / DROPPED)

    def add(self, records: Sequence[Record], left_out: Iterable[ExampleReport] = ()) -> None:
        """Write the answers of a batch, and the examples left out of it, and flush them to the disk.

        Raises:
            CheckpointError: If the disk refuses, or another process took the folder over.
        """
        self.lock.check()
        for name, lines in (
            (DROPPED, [asdict(report) for report in left_out]),
            (ANSWERS, [asdict(record) for record in records]),
        ):
            if lines:
                with self._disk(name), (self.path / name).open("a", encoding="ascii") as file:
                    file.write(_text(lines))
                    file.flush()
                    os.fsync(file.fileno())

    def keep(self, records: Sequence[Record], left_out: Sequence[ExampleReport]) -> None:
        """Rewrite both files with only these lines, which also removes a line that was cut off.

        Raises:
            CheckpointError: If the disk refuses.
        """
        for name, lines in (
            (DROPPED, [asdict(report) for report in left_out]),
            (ANSWERS, [asdict(record) for record in records]),
        ):
            if (self.path / name).exists():
                self._replace(name, _text(lines))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result.

        Raises:
            CheckpointError: If the disk refuses.
        """
        self._replace(RESULT, json.dumps(finite(result), indent=2, allow_nan=False))

    def _read(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"its content is not a mapping but {type(content).__name__}")
            return content
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"The folder of a complete evaluation has {SETTINGS}, {ANSWERS} and {RESULT}.",
                reason=f"{file}: {type(error).__name__}: {error}.",
                remedy="Run the evaluation to its end; the same command goes on where it stopped.",
            ) from error

    def _replace(self, name: str, text: str) -> None:
        with self._disk(name):
            write_whole(self.path / name, text)

    def _disk(self, name: str) -> AbstractContextManager[None]:
        remedy = "Free some space; the same command goes on. Complete batches are kept."
        return disk_errors("An evaluation keeps its answers as they are graded.", self.path / name, remedy)


def _built(line_class: type[Line], file: Path) -> list[Line]:
    """Return the lines of a file as instances of the class that they were written from.

    Raises:
        CheckpointError: If they have other fields.
    """
    try:
        return [line_class(**line) for line in read_jsonl(file)]
    except TypeError as error:
        raise CheckpointError(
            "Answers are read by the version that wrote them.",
            reason=f"{file}: {error}.",
            remedy="Evaluate anew, into another --output.",
        ) from error


def default_dir(settings: Mapping[str, Any], root: Path) -> Path:
    """Return a folder below ``root``, named after benchmark, model and a digest of all settings."""
    model = "-".join(Path(settings["model"]["path"]).parts[-3:]).strip("/").replace("-checkpoints-", "-")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return root / "eval" / f"{safe_name(settings['task']['type'])}-{safe_name(model)}-{digest}"


def model_settings(model: ModelConfig) -> dict[str, Any]:
    """Return what identifies a policy: its path, the state of its files, and the base that it was trained from.

    Settings that only affect speed, such as the device, are left out.
    """
    settings = model.model_dump(mode="json", include={"path", "revision", "dtype", "min_pixels", "max_pixels"})
    folder = Path(os.path.expanduser(model.path))
    if folder.is_dir():
        settings["path"] = str(folder.absolute())
        names = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".json"))
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in names]
        settings["files"] = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
    return settings | {"base": base_of(settings["path"])}


def base_of(path: str) -> str:
    """Return the model that training started from, followed back through runs; a model of no run is its own base."""
    run = Path(path).parent.parent
    if Path(path).parent.name != "checkpoints" or not (run / "config.yaml").is_file():
        return path
    base = str(RunDir(run).read()[0]["model"]["path"])
    folder = Path(os.path.expanduser(base))
    return base_of(str(folder.absolute()) if folder.is_dir() else base)


def finite(value: Any) -> Any:
    """Return plain data with None for numbers that are not finite, which JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _text(lines: Sequence[Mapping[str, Any]]) -> str:
    # ASCII, so that any response fits on one line and can be encoded.
    return "".join(json.dumps(finite(line)) + "\n" for line in lines)
