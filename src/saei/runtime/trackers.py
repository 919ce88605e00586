"""Experiment trackers: a run in TensorBoard, Weights & Biases, and the others that accelerate supports."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saei.config.flat import flat
from saei.config.run import RunConfig, dump
from saei.errors import ConfigError, nearest
from saei.runtime.files import disk_errors, write_whole
from saei.runtime.samples import GroupSample

FILE = "trackers.json"
"""File in a run's folder with the id of the run and the last step that each tracker got."""

PROJECT = "saei"

DATA_FOLDER = "WANDB_DATA_DIR"


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers are known and their packages installed.

    Raises:
        ConfigError: Naming the one that is not.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                "output.trackers names trackers that accelerate knows.",
                reason=f"Got '{name}'.",
                remedy=nearest(name, LOGGER_TYPE_TO_CLASS),
            )
        if name in LoggerType.list() and name not in map(str, get_available_trackers()):
            raise ConfigError(
                "A tracker needs its package.",
                reason=f"That of '{name}' is not installed.",
                remedy="Install it, or leave it out of output.trackers.",
            )


def project_of(config: RunConfig) -> str:
    """Return the project that a run is filed under."""
    return config.output.project or os.environ.get("WANDB_PROJECT") or PROJECT


class Trackers:
    """The trackers of a run, in the process that writes.

    Trackers only hold a copy of ``metrics.jsonl`` and of the samples. So a tracker that fails is dropped with a note,
    and the run goes on. A resumed run keeps its id, and no tracker gets the same step twice.

    Args:
        folder: The run's folder, in which local trackers write.
        config: The run's configuration, which every tracker gets as a whole.
        note: Called with each text that the user should read.

    Raises:
        ConfigError: If a tracker does not start.
    """

    def __init__(self, folder: Path, config: RunConfig, note: Callable[[str], None]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._file, self._note = folder / FILE, note
        self._open: dict[str, Any] = {}
        self._without_samples: set[str] = set()
        self._data_folder_set = False
        record = _read(self._file)
        self._id = str(record.get("id") or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:16])
        self._logged: dict[str, int] = dict(record.get("logged") or {})
        for name in config.output.trackers:
            tracker_class = LOGGER_TYPE_TO_CLASS[name]
            try:
                self._open[name] = tracker = self._start(name, tracker_class, folder, project_of(config))
                if name not in self._logged:
                    tracker.store_init_configuration(flat(dump(config)))
            except Exception as error:  # third-party code, which may also look for a key or call a server
                self.finish()
                raise ConfigError(
                    "A tracker has to start before training does.",
                    reason=f"'{name}' raised {type(error).__name__}: {error}.",
                    remedy="Fix its settings, or leave it out of output.trackers.",
                ) from error

    def log(self, metrics: Mapping[str, float], step: int, samples: Sequence[GroupSample] = ()) -> None:
        """Give every tracker the metrics and the samples of a step that it has not got yet.

        Args:
            metrics: By full names.
            step: Steps done.
            samples: Groups to look at, for the trackers that can show them.

        Raises:
            CheckpointError: If the disk refuses the record of the steps that trackers got.
        """
        missing = {name: tracker for name, tracker in self._open.items() if step > self._logged.get(name, -1)}
        if not missing:
            return
        # Recorded first: a process that dies in between leaves a gap, not a step that is logged twice.
        self._logged |= dict.fromkeys(missing, step)
        with disk_errors("A run notes which steps its trackers got.", self._file, "Free some space and go on."):
            write_whole(self._file, json.dumps({"id": self._id, "logged": self._logged}))
        for name, tracker in missing.items():
            try:
                tracker.log(dict(metrics), step=step)
            except Exception as error:  # third-party code, a network, a full disk
                del self._open[name]
                self._note(f"The tracker {name} failed and gets nothing any more: {type(error).__name__}: {error}")
            else:
                self._log_samples(name, tracker, samples, step)

    def _log_samples(self, name: str, tracker: Any, samples: Sequence[GroupSample], step: int) -> None:
        from saei.runtime.tracked_samples import WRITERS

        if not samples or name not in WRITERS or name in self._without_samples:
            return
        try:
            WRITERS[name](tracker, samples, step)
        except Exception as error:  # as above; metrics may still get through
            self._without_samples.add(name)
            self._note(f"The tracker {name} gets no samples any more: {type(error).__name__}: {error}")

    def finish(self) -> None:
        """Close all trackers."""
        for name, tracker in self._open.items():
            try:
                tracker.finish()
            except Exception as error:  # as above
                self._note(f"The tracker {name} did not end well: {type(error).__name__}: {error}")
        self._open = {}
        if self._data_folder_set:
            os.environ.pop(DATA_FOLDER, None)
            self._data_folder_set = False

    def _start(self, name: str, tracker_class: Any, folder: Path, project: str) -> Any:
        """Return a started tracker; accelerate's first argument is a project or, for some, a folder."""
        if name == "tensorboard":
            tracker = tracker_class("tensorboard", str(folder))
        elif name == "wandb":
            # Pictures wait there to be uploaded. The default is in the user's home, and a run that is moved before its
            # upload would lose them. Only the environment sets it.
            self._data_folder_set = DATA_FOLDER not in os.environ
            os.environ.setdefault(DATA_FOLDER, str(folder / "wandb"))
            tracker = tracker_class(project, name=folder.name, id=self._id, resume="allow", dir=str(folder))
        else:
            tracker = tracker_class(project, *([str(folder)] if tracker_class.requires_logging_directory else []))
        tracker.start()
        return tracker


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):  # a new run, or an incomplete file
        return {}
    return record if isinstance(record, dict) else {}
