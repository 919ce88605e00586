"""What a run writes as it goes: metrics, to its folder and to trackers, held-out answers, and samples to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saei.config.run import RunConfig
from saei.engine.display import Display
from saei.evaluation.held_out_answers import plain
from saei.evaluation.records import ExampleAnswers
from saei.runtime.processes import Processes
from saei.runtime.run_dir import RunDir
from saei.runtime.samples import GroupSample
from saei.runtime.trackers import Trackers


class RunOutput:
    """Writes a run's folder and shows its metrics; of several processes the first writes.

    Args:
        run: The run.
        config: Its configuration.
        display: Where progress is shown.
        processes: Those that train together.
    """

    def __init__(self, run: RunDir, config: RunConfig, display: Display, processes: Processes) -> None:
        self._run, self._config, self._display, self._processes = run, config, display, processes
        self._trackers: Trackers | None = None
        self._untracked: Sequence[GroupSample] = ()

    def open(self) -> None:
        """Start the trackers."""
        self._processes.once(self._open)

    def _open(self) -> None:
        if self._config.output.trackers:
            self._trackers = Trackers(self._run.path, self._config, self._display.note)

    def close(self) -> None:
        """Finish the trackers, if they were started."""
        if self._trackers is not None:
            self._trackers.finish()
            self._trackers = None

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write and show the metrics of a step.

        Args:
            step: Steps done.
            metrics: By full names.
        """
        self._processes.once(lambda: self._write(step, metrics))
        self._display.step(step, metrics)

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.lock.check()
        self._run.append({"step": step, **metrics})
        if self._trackers is not None:
            self._trackers.log(metrics, step, self._untracked)
            self._untracked = ()

    def answers(self, step: int, answers: Sequence[ExampleAnswers]) -> None:
        """Write which held-out examples are answered rightly; if the disk refuses, the run goes on without."""
        if not self._processes.main:
            return
        try:
            self._run.append_answers(plain(step, answers))
        except OSError as error:
            self._display.note(f"The held-out answers of step {step} are not kept: {self._run.path}: {error.strerror}.")

    def samples(self, step: int, groups: Sequence[GroupSample]) -> None:
        """Write groups for people to look at; if the disk refuses, the run goes on without them.

        Trackers get them together with the metrics of the step, which come next.
        """
        if not self._processes.main or not groups:
            return
        if self._trackers is not None:
            self._untracked = groups
        try:
            self._run.write_samples(step, groups)
        except OSError as error:
            self._display.note(f"The samples of step {step} are not kept: {self._run.path}: {error.strerror}.")
