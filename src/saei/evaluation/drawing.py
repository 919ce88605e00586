"""Drawing and grading an evaluation's answers.

While the policy samples one batch, a thread prepares the views of the next ones and another grades those before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, product
from typing import TypeAlias

import torch

from saei.config.sections import SamplingConfig
from saei.data.base import Task
from saei.errors import DataError
from saei.evaluation.records import Record, record
from saei.evaluation.store import EvaluationDir
from saei.intake.inspect import inspect_example
from saei.intake.reports import ExampleReport
from saei.intake.scan import left_out
from saei.intake.stream import PREFLIGHT
from saei.policy import Policy
from saei.rewards.base import Attempt, Reward
from saei.runtime.seeds import derive
from saei.types import Response, View

RESPONSES_PER_ROUND = 32
"""Responses to one example that share a source of randomness; they are drawn together whatever the batch size."""

BATCHES_AHEAD = 2
"""Batches whose views are prepared before their turn; as many may wait for their grades."""

Inspections: TypeAlias = Mapping[int, View | ExampleReport]
"""Examples by their numbers: the view that the policy gets, or why the example cannot be used."""

Perturbation: TypeAlias = Callable[[Sequence[View]], Sequence[View]]
"""Turns clean views into those that the policy gets."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many answers to draw, and in which batches.

    Attributes:
        examples: Number of examples, counted from the first of the split.
        responses: Responses to each example.
        seed: Seed of the draws; each example and round has its own source of randomness, derived from it.
        batch_size: Approximate number of responses drawn together.
    """

    examples: int
    responses: int
    seed: int
    batch_size: int

    def batches(self) -> Iterator[Batch]:
        """Yield the batches: blocks of examples, and for each block its rounds of responses."""
        block_size = max(1, self.batch_size // min(self.responses, RESPONSES_PER_ROUND))
        for start in range(0, self.examples, block_size):
            numbers = range(start, min(start + block_size, self.examples))
            for first in range(0, self.responses, RESPONSES_PER_ROUND):
                yield Batch(numbers, range(first, min(first + RESPONSES_PER_ROUND, self.responses)))


@dataclass(frozen=True, slots=True)
class Batch:
    """A block of examples and the responses to each of them that are drawn together.

    Attributes:
        numbers: Numbers of the examples.
        responses: Numbers of the responses, the same for each example.
    """

    numbers: range
    responses: range

    def answers(self) -> Iterator[tuple[int, int]]:
        """Yield the number of the example and of the response for each answer of the batch."""
        return product(self.numbers, self.responses)


class Evaluator:
    """Draws and grades the answers that an evaluation's folder does not have yet.

    What is drawn for an example depends on seed, example and round alone, so an evaluation that was stopped and
    continued ends as an undisturbed one does. A batch that is only partly in the folder is drawn again as a whole.

    Args:
        policy: The policy.
        task: The benchmark; the examples are those of its split ``eval``.
        reward: Grades the responses.
        sampling: How responses are drawn.
        plan: How many answers, in which batches.
        folder: Where answers are written, batch by batch.
        max_bad_share: Share of broken examples above which the data counts as unusable.
        perturb: Turns clean views into those that the policy gets; the default leaves them as they are.
    """

    def __init__(
        self,
        policy: Policy,
        task: Task,
        reward: Reward,
        sampling: SamplingConfig,
        plan: Plan,
        folder: EvaluationDir,
        *,
        max_bad_share: float,
        perturb: Perturbation = list,
    ) -> None:
        self._policy, self._task, self._reward = policy, task, reward
        self._sampling, self._plan, self._folder = sampling, plan, folder
        self._max_bad_share, self._perturb = max_bad_share, perturb
        self._block: tuple[range, Inspections] = (range(0), {})
        self._bad: dict[int, ExampleReport] = {}

    def run(self, on_progress: Callable[[int, int], None]) -> dict[str, float]:
        """Draw and grade the missing answers, and return how many they were and how the time was spent.

        ``busy`` is the share of the time in which the policy sampled.

        Raises:
            DataError: If too many examples are unusable.
        """
        start, sampling_s, drawn = time.perf_counter(), 0.0, 0
        grading: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, "saei-inspect") as inspector, ThreadPoolExecutor(1, "saei-grade") as grader:
            missing = iter(self._missing_batches())
            ahead = deque((batch, inspector.submit(self._inspect, batch)) for batch in islice(missing, BATCHES_AHEAD))
            try:
                while ahead:
                    batch, inspection = ahead.popleft()
                    inspections = inspection.result()
                    ahead.extend((later, inspector.submit(self._inspect, later)) for later in islice(missing, 1))
                    views = _views(inspections)
                    perturbed = self._perturb(list(views.values())) if views else ()
                    sampling_start = time.perf_counter()
                    responses = self._draw(batch, list(views), perturbed)
                    sampling_s += time.perf_counter() - sampling_start
                    drawn += sum(map(len, responses))
                    grading.append(grader.submit(self._grade, batch, inspections, responses))
                    while grading and (len(grading) > BATCHES_AHEAD or grading[0].done()):
                        grading.popleft().result()
                    on_progress(batch.numbers.stop, self._plan.examples)
                for graded in grading:
                    graded.result()
            finally:
                inspector.shutdown(cancel_futures=True)
        seconds = time.perf_counter() - start
        return {"answers": drawn, "seconds": seconds, "sampling_seconds": sampling_s, "busy": sampling_s / seconds}

    def _missing_batches(self) -> list[Batch]:
        """Return the batches that the folder lacks in whole or in part; the folder loses the partial ones."""
        records, reports = self._folder.records(), self._folder.left_out()
        answered = {(record.number, record.response) for record in records}
        unusable = {report.index for report in reports}
        missing = [
            batch
            for batch in self._plan.batches()
            if any(number not in unusable and (number, n) not in answered for number, n in batch.answers())
        ]
        if missing:
            redrawn = {answer for batch in missing for answer in batch.answers()}
            reports = [report for report in reports if (report.index, 0) not in redrawn]
            self._bad = {report.index: report for report in reports if not report.too_long}
            self._folder.keep(
                [record for record in records if (record.number, record.response) not in redrawn], reports
            )
        return missing

    def _inspect(self, batch: Batch) -> Inspections:
        """Return the views of a batch's examples, and for those that cannot be used the reason."""
        numbers, inspections = self._block
        if numbers != batch.numbers:  # otherwise it is a further round of the same block
            inspections = {number: self._view(number) for number in batch.numbers}
            self._block = batch.numbers, inspections
            self._check(batch.numbers.stop, inspections)
        return inspections

    def _view(self, number: int) -> View | ExampleReport:
        try:
            return inspect_example(self._task, self._policy, number, "eval", reward=self._reward)
        except DataError as error:
            return left_out(number, error)

    def _check(self, seen: int, inspections: Inspections) -> None:
        """Raise a ``DataError`` if too many of the first ``seen`` examples are broken."""
        self._bad |= {report.index: report for report in _reports(inspections) if not report.too_long}
        if len(self._bad) > self._max_bad_share * max(PREFLIGHT, seen):
            raise DataError(
                f"Of a benchmark's examples at most {self._max_bad_share:.0%} may be unusable.",
                reason=f"{len(self._bad)} of the first {seen} are; the first: {next(iter(self._bad.values())).report}",
                remedy="Fix the data or pin another revision (task.revision), or raise training.max_bad_share.",
            )

    def _draw(self, batch: Batch, numbers: Sequence[int], views: Sequence[View]) -> list[list[Response]]:
        """Return a batch's responses to the views of the examples with these numbers."""
        if not views:
            return []
        purpose = ("evaluation", batch.responses.start)
        sources = [torch.Generator().manual_seed(derive(self._plan.seed, *purpose, number)) for number in numbers]
        counts = [len(batch.responses)] * len(views)
        return self._policy.sample(views, counts, sampling=self._sampling, generators=sources)

    def _grade(self, batch: Batch, inspections: Inspections, responses: Sequence[Sequence[Response]]) -> None:
        """Grade and write a batch's answers; its unusable examples are written with the first round."""
        answers = [
            (number, n, view, response)
            for (number, view), to_view in zip(_views(inspections).items(), responses, strict=True)
            for n, response in zip(batch.responses, to_view, strict=True)
        ]
        grades = self._reward.grade_all(
            [
                Attempt(view.example, response.text, response.truncated, len(response))
                for _, _, view, response in answers
            ]
        )
        reporting = self._task.reporting
        records: list[Record] = [
            record(number, n, view.example, response, grade, reporting)
            for (number, n, view, response), grade in zip(answers, grades, strict=True)
        ]
        self._folder.add(records, _reports(inspections) if batch.responses.start == 0 else [])


def _views(inspections: Inspections) -> dict[int, View]:
    """Return the views of the usable examples by number."""
    return {number: view for number, view in inspections.items() if isinstance(view, View)}


def _reports(inspections: Inspections) -> list[ExampleReport]:
    """Return why the other examples cannot be used."""
    return [report for report in inspections.values() if isinstance(report, ExampleReport)]
