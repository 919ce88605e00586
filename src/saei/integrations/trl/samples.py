"""Whole groups of a run that TRL trains, kept for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saei.config.sections import EvaluationConfig
from saei.engine.samples import group_sample
from saei.runtime.run_dir import RunDir
from saei.types import Grade, Group, ScoredGroup


class GroupRecorder:
    """Keeps the first groups of some steps: TRL draws them, and grades their responses afterwards.

    Advantages stay unknown, since TRL computes them within its loss. A process that writes none has no recorder.

    Args:
        run: Where they are written.
        config: How often, and how many.
        steps: Training steps of the run.
        tokenizer: Tells what the tokens are.
        on_note: Called with what the user should know.
    """

    def __init__(
        self, run: RunDir, config: EvaluationConfig, *, steps: int, tokenizer: Any, on_note: Callable[[str], None]
    ) -> None:
        self._run, self._config, self._steps = run, config, steps
        self._tokenizer, self._on_note = tokenizer, on_note
        self._next = 0
        self._step, self._drawn = 0, list[Group]()

    def is_due(self, step: int) -> bool:
        """Return whether groups of this step are kept: of the first one, then every ``evaluation.every``, the last.

        Args:
            step: Steps done after it.
        """
        return step >= self._next or step == self._steps

    def drawn(self, step: int, groups: Sequence[Group]) -> None:
        """Take a step's groups, which are written once they are graded."""
        self._next = (step // self._config.every + 1) * self._config.every
        self._step, self._drawn = step, list(groups)

    def graded(self, grades: Sequence[Grade]) -> None:
        """Write the first of the groups that were drawn, if any were.

        Args:
            grades: Of the responses of all groups, in their order.
        """
        groups, self._drawn = self._drawn, []
        samples, pictures, first = [], self._config.adversarial_images, 0
        for number, group in enumerate(groups[: max(1, pictures)]):
            scored = ScoredGroup(group, tuple(grades[first : first + len(group.responses)]))
            first += len(group.responses)
            samples.append(
                group_sample(
                    self._step, "training", number, scored, tokenizer=self._tokenizer, pictures=number < pictures
                )
            )
        try:
            if samples:
                self._run.write_samples(self._step, samples)
        except OSError as error:
            self._on_note(f"The samples of step {self._step} are not kept: {self._run.path}: {error.strerror}.")
