"""The stream of training views: one global position, bad examples are named, counted and skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np

from saei.data.base import Split, Task
from saei.errors import DataError
from saei.intake.inspect import inspect_example
from saei.intake.reports import ExampleReport
from saei.intake.scan import left_out
from saei.policy import Policy
from saei.rewards.base import Reward
from saei.runtime.processes import Processes
from saei.runtime.seeds import derive
from saei.types import View

PREFLIGHT = 64
"""Examples that are inspected before training."""

OUT_OF_REACH = 2**40
"""Of a task without end, a number of an example beyond those of any training."""


class ViewStream:
    """Clean views of a task's training examples, in an order that is a pure function of seed and position.

    Each epoch visits a finite task in a new permutation.

    Args:
        task: Where examples come from.
        policy: Makes the views.
        seed: Seed of the permutations.
        max_bad_share: The run stops when more than this share of the distinct examples seen is unusable. Until
            ``PREFLIGHT`` have been seen, as many may be unusable as of ``PREFLIGHT``, but at most half.
        reward: Checks that an example's gold answer can be read; None accepts every example.
        processes: The processes that divide the examples among them; position and counts are those of all.
    """

    def __init__(
        self,
        task: Task,
        policy: Policy,
        *,
        seed: int,
        max_bad_share: float,
        reward: Reward | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._task = task
        self._reward = reward
        self._policy = policy
        self._seed = seed
        self._max_bad_share = max_bad_share
        self._processes = processes or Processes()
        self.position = 0
        self.bad = 0
        self._seen: set[tuple[Split, int]] = set()
        self._left_out: dict[tuple[Split, int], ExampleReport] = {}
        self._reported = 0

    def preflight(self, need_picture: Sequence[str] = ()) -> list[View]:
        """Inspect the first examples, so that data errors surface before training, and return their views.

        After a scan of all examples, that of the first usable one is enough.

        Args:
            need_picture: What of the run can do nothing without a picture, for the message.

        Raises:
            DataError: If there are no examples, too many of them are unusable, or none has a picture where one is
                needed.
        """
        size = self._task.size("train")
        if size == 0:
            raise DataError(
                "A task needs at least one training example.",
                reason=f"'{self._task.name()}' has none.",
                remedy="Check the path, the split and the filters of the task.",
            )
        looks = (self._look(index, "train") for index in (count() if size is None else range(size)))
        # After a scan of all examples only a view is missing, and the first example may be unusable.
        seen = sum(split == "train" for split, _ in self._seen)
        first = list(islice(looks, PREFLIGHT if size is None or seen < size or need_picture else 1))
        self._check("train")
        if need_picture and not any(view is not None and view.canvases for view in first):
            raise DataError(
                f"{' and '.join(need_picture)} can do nothing without a picture.",
                reason=f"None of the first {len(first)} examples of '{self._task.name()}' has one.",
                remedy="Choose another, or a task with pictures; `saei data preview` shows what it reads.",
            )
        views = [view for view in first if view is not None]
        return views or list(islice((view for view in looks if view is not None), 1))

    def take(self, n: int) -> list[View]:
        """Return this process's share of the next ``n`` usable views, and advance past all ``n``.

        The index of a view is its position, which counts unusable examples, too.

        Raises:
            DataError: If the share of unusable examples exceeds the limit.
        """
        index: dict[int, int] = {}
        views: dict[int, View | ExampleReport] = {}
        usable: list[int] = []
        while len(usable) < n:
            positions = range(self.position, self.position + n - len(usable))
            index |= {position: self._index(position) for position in positions}
            new = {position: self._view(index[position], "train") for position in self._processes.share(positions)}
            views |= new
            reports = {position: view for position, view in new.items() if isinstance(view, ExampleReport)}
            unusable: dict[int, ExampleReport] = {}
            for reports_of_process in self._processes.gather(reports):
                unusable |= reports_of_process
            for position in positions:
                self.position += 1
                self._record(index[position], "train", unusable.get(position))
                if position in unusable:
                    self.bad += not unusable[position].too_long
                    self._check("train")
                else:
                    usable.append(position)
        # Unusable examples shift the shares: this process may now have an example that another one inspected.
        share = self._processes.share(usable)
        mine = [(p, views[p] if p in views else self._view(index[p], "train")) for p in share]
        return [replace(view, index=position) for position, view in mine if not isinstance(view, ExampleReport)]

    def held_out(self, n: int, start: int = 0) -> list[View]:
        """Return up to ``n`` usable views of the eval split, from example ``start`` on, in order.

        Raises:
            DataError: If there are none, or too many of the examples are unusable.
        """
        size = self._task.size("eval")
        views: list[View] = []
        bad = 0
        for index in count(start) if size is None else range(start, size):
            view = self._look(index, "eval")
            if view is None:
                bad += 1
                self._check("eval")
            else:
                views.append(view)
            if len(views) == n:
                break
        if not views:
            raise DataError(
                "Evaluation needs at least one usable example.",
                reason=f"Of the eval split of '{self._task.name()}' {bad} are unusable and none is left.",
                remedy="Check the path, the split and the filters of the task.",
            )
        return views

    def apart(self, n: int, *, seed: int, usable: Callable[[View], bool]) -> list[View]:
        """Return up to ``n`` usable views of training examples, apart from the stream, which does not advance.

        Of a task without end they are examples that no training reaches, of another one a random choice.

        Args:
            n: How many.
            seed: Seed of the choice.
            usable: Says which views are wanted.

        Raises:
            DataError: If there are none, or too many of the examples are unusable.
        """
        size = self._task.size("train")
        indices: Iterable[int] = (
            map(int, np.random.default_rng(seed).permutation(size)) if size else count(OUT_OF_REACH)
        )
        views: list[View] = []
        for place, index in enumerate(indices):
            view = self._look(index, "train")
            if view is None:
                self._check("train")
            elif usable(view):
                views.append(replace(view, index=index))
            if len(views) == n or (size is None and place >= n + PREFLIGHT):
                break
        if not views:
            raise DataError(
                "A control probe needs a training example that is not evaluated.",
                reason=f"Every training example of '{self._task.name()}' is also one of evaluation.",
                remedy="Evaluate on other examples (task.splits), or choose a strength that reads no control probe.",
            )
        return views

    def admit(self, split: Split, reports: Iterable[ExampleReport]) -> None:
        """Record examples that were inspected before; what is wrong with them is not reported again."""
        for report in reports:
            self._record(report.index, split, report if report.rule else None)
        self._reported = len(self._bad())

    @property
    def too_long(self) -> int:
        """How many training examples seen so far are left out because their prompts are too long."""
        return sum(report.too_long for (split, _), report in self._left_out.items() if split == "train")

    def unreported(self) -> list[str]:
        """Return what is wrong with each unusable example seen since the last call; each is reported once."""
        new = self._bad()[self._reported :]
        self._reported += len(new)
        return new

    def state_dict(self) -> dict[str, int]:
        """Return the position and the count of bad examples."""
        return {"position": self.position, "bad": self.bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.position, self.bad = int(state["position"]), int(state["bad"])

    def _index(self, position: int) -> int:
        size = self._task.size("train")
        if size is None:
            return position
        epoch, place = divmod(position, size)
        return int(np.random.default_rng(derive(self._seed, "epoch", epoch)).permutation(size)[place])

    def _look(self, index: int, split: Split) -> View | None:
        view = self._view(index, split)
        if isinstance(view, ExampleReport):
            self._record(index, split, view)
            return None
        self._record(index, split)
        return view

    def _view(self, index: int, split: Split) -> View | ExampleReport:
        """Return an example's view, or why the example is left out."""
        if (split, index) in self._left_out:
            return self._left_out[split, index]
        try:
            return inspect_example(self._task, self._policy, index, split, reward=self._reward)
        except DataError as error:
            return left_out(index, error)

    def _record(self, index: int, split: Split, unusable: ExampleReport | None = None) -> None:
        self._seen.add((split, index))
        if unusable is not None:
            self._left_out.setdefault((split, index), unusable)

    def _bad(self, *splits: Split) -> list[str]:
        """Return what is wrong with each faulty example of these splits, or of all; length is no fault."""
        return [
            f"{split} example {report.index} is skipped: {report.report}"
            for (split, _), report in self._left_out.items()
            if not report.too_long and (not splits or split in splits)
        ]

    def _check(self, split: Split) -> None:
        """Check that few enough of the distinct examples seen are unusable; see ``max_bad_share``.

        A prompt that is too long is no fault, but some prompts have to be short enough.

        Raises:
            DataError: If too many are faulty, or none is usable.
        """
        size = self._task.size(split)
        fewest = PREFLIGHT if size is None else min(PREFLIGHT, size)
        seen = max(fewest, sum(of_split == split for of_split, _ in self._seen))
        bad = self._bad(split)
        allowed = max(self._max_bad_share * seen, min(self._max_bad_share * PREFLIGHT, seen / 2))
        too_long = sum(report.too_long for (of_split, _), report in self._left_out.items() if of_split == split)
        if not bad and too_long == seen:
            raise DataError(
                "Some prompts have to be short enough.",
                reason=f"None of {seen} has at most {self._policy.sampling.max_prompt_tokens} tokens.",
                remedy="Raise sampling.max_prompt_tokens, or lower model.max_pixels.",
            )
        if len(bad) > allowed or len(bad) + too_long == seen:
            raise DataError(
                f"Some examples have to be usable, and of {seen} at most {int(allowed)} may not be.",
                reason=f"{len(bad)} of {seen} are unusable; the first: {bad[0]}",
                remedy="Mend them, or raise training.max_bad_share.",
            )
