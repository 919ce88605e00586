"""Drawing and grading an evaluation's answers: examples are looked at ahead, grades are given behind the sampling."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch

from saei.config.sections import SamplingConfig
from saei.data.base import Task
from saei.errors import DataError
from saei.evaluation.records import Record, record
from saei.evaluation.store import EvaluationDir
from saei.intake.inspect import inspect_example
from saei.intake.scan import ExampleReport, left_out
from saei.intake.stream import PREFLIGHT
from saei.policy import Policy
from saei.rewards.base import Attempt, Reward
from saei.runtime.seeds import derive
from saei.types import Response, View

ROUND = 32
"""Responses to one example that share a source of randomness, and are drawn together whatever the batch."""

AHEAD = 2
"""Batches that are looked at before their turn, and that may wait for their grades."""

Looks: TypeAlias = Mapping[int, View | ExampleReport]
"""Examples by their numbers: what the policy sees, or why an example cannot be used."""

Move: TypeAlias = Callable[[Sequence[View]], Sequence[View]]
"""Changes clean views into those that the policy looks at."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many answers, and in which portions.

    Attributes:
        examples: Examples, from the first of the split on.
        responses: Responses to each.
        seed: Seed of the draws; each example and round has its own by it.
        batch: Responses drawn together, about.
    """

    examples: int
    responses: int
    seed: int
    batch: int

    def units(self) -> Iterator[Unit]:
        """Return the portions: blocks of examples, and for each block rounds of responses."""
        size = max(1, self.batch // min(self.responses, ROUND))
        for start in range(0, self.examples, size):
            numbers = range(start, min(start + size, self.examples))
            for first in range(0, self.responses, ROUND):
                yield Unit(numbers, range(first, min(first + ROUND, self.responses)))


@dataclass(frozen=True, slots=True)
class Unit:
    """Examples and the responses to each that are drawn together."""

    numbers: range
    responses: range


class Answering:
    """Draws and grades what of an evaluation is not yet in its folder.

    What is drawn for an example depends on seed, example and round alone, so an evaluation that was stopped ends
    where an undisturbed one does. A batch that the folder has only a part of is drawn again.

    Args:
        policy: The policy.
        task: The benchmark; its split ``eval`` is answered.
        reward: Grades the responses.
        sampling: How they are drawn.
        plan: How many.
        folder: Where answers are written, batch by batch.
        max_bad_share: Share of broken examples above which the data counts as unusable.
        move: Changes the views that the policy looks at.
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
        move: Move = list,
    ) -> None:
        self._policy, self._task, self._reward = policy, task, reward
        self._sampling, self._plan, self._folder = sampling, plan, folder
        self._max_bad_share, self._move = max_bad_share, move
        self._block: tuple[range, Looks] = (range(0), {})
        self._bad: dict[int, ExampleReport] = {}

    def run(self, on_progress: Callable[[int, int], None]) -> dict[str, float]:
        """Answer what is left, and return how many answers that were and how the time was spent.

        ``busy`` is the share of the time in which the policy sampled.

        Raises:
            DataError: If too many examples are unusable.
        """
        start, sampling_s, drawn = time.perf_counter(), 0.0, 0
        grading: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, "saei-look") as looking, ThreadPoolExecutor(1, "saei-grade") as grader:
            rest = iter(self._left())
            ahead = deque((unit, looking.submit(self._look, unit)) for unit in islice(rest, AHEAD))
            try:
                while ahead:
                    unit, future = ahead.popleft()
                    looked = future.result()
                    ahead.extend((later, looking.submit(self._look, later)) for later in islice(rest, 1))
                    views = {number: one for number, one in looked.items() if isinstance(one, View)}
                    moved = self._move(list(views.values())) if views else ()
                    begun = time.perf_counter()
                    responses = self._draw(unit, list(views), moved)
                    sampling_s += time.perf_counter() - begun
                    drawn += sum(map(len, responses))
                    grading.append(grader.submit(self._grade, unit, looked, responses))
                    while grading and (len(grading) > AHEAD or grading[0].done()):
                        grading.popleft().result()
                    on_progress(unit.numbers.stop, self._plan.examples)
                for graded in grading:
                    graded.result()
            finally:
                looking.shutdown(cancel_futures=True)
        seconds = time.perf_counter() - start
        return {"answers": drawn, "seconds": seconds, "sampling_seconds": sampling_s, "busy": sampling_s / seconds}

    def _left(self) -> list[Unit]:
        """Return the units that have no or not all answers; what is there of those is dropped from the folder."""
        records, left = self._folder.records(), self._folder.left_out()
        there = {(one.number, one.response) for one in records}
        unusable = {one.index: one for one in left}
        units = list(self._plan.units())
        missing = [
            unit
            for unit in units
            if any(
                number not in unusable and (number, n) not in there for number in unit.numbers for n in unit.responses
            )
        ]
        if missing:
            again = {(number, n) for unit in missing for number in unit.numbers for n in unit.responses}
            left = [one for one in left if (one.index, 0) not in again]
            self._bad = {one.index: one for one in left if not one.too_long}
            self._folder.keep([one for one in records if (one.number, one.response) not in again], left)
        return missing

    def _look(self, unit: Unit) -> Looks:
        """Return the views of a unit's examples, and why others have none."""
        numbers, found = self._block
        if numbers != unit.numbers:  # else it is a further round of the same
            found = {number: self._view(number) for number in unit.numbers}
            self._block = unit.numbers, found
            self._check(unit.numbers.stop, found)
        return found

    def _view(self, number: int) -> View | ExampleReport:
        try:
            return inspect_example(self._task, self._policy, number, "eval", reward=self._reward)
        except DataError as error:
            return left_out(number, error)

    def _check(self, seen: int, found: Looks) -> None:
        self._bad |= {
            number: one for number, one in found.items() if isinstance(one, ExampleReport) and not one.too_long
        }
        if len(self._bad) > self._max_bad_share * max(PREFLIGHT, seen):
            raise DataError(
                f"Of a benchmark's examples at most {self._max_bad_share:.0%} may be unusable.",
                reason=f"{len(self._bad)} of the first {seen} are; the first: {next(iter(self._bad.values())).report}",
                remedy="Mend the data or pin another revision (task.revision), or raise training.max_bad_share.",
            )

    def _draw(self, unit: Unit, numbers: Sequence[int], views: Sequence[View]) -> list[list[Response]]:
        """Return the responses to the views of some examples."""
        if not views:
            return []
        purpose = ("evaluation", unit.responses.start)
        sources = [torch.Generator().manual_seed(derive(self._plan.seed, *purpose, number)) for number in numbers]
        counts = [len(unit.responses)] * len(views)
        return self._policy.sample(views, counts, sampling=self._sampling, generators=sources)

    def _grade(self, unit: Unit, looked: Looks, responses: Sequence[Sequence[Response]]) -> None:
        """Grade and write a unit's answers; its unusable examples are written with the first round."""
        seen = [(number, one) for number, one in looked.items() if isinstance(one, View)]
        spoken = [
            (number, n, view, response)
            for (number, view), own in zip(seen, responses, strict=True)
            for n, response in zip(unit.responses, own, strict=True)
        ]
        attempts = [Attempt(view.example, one.text, one.truncated, len(one)) for _, _, view, one in spoken]
        grades = self._reward.grade_all(attempts)
        reporting = self._task.reporting
        records: list[Record] = [
            record(number, n, view.example, response, grade, reporting)
            for (number, n, view, response), grade in zip(spoken, grades, strict=True)
        ]
        left = [one for one in looked.values() if isinstance(one, ExampleReport)] if unit.responses.start == 0 else []
        self._folder.add(records, left)
