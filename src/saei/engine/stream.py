"""The stream of training views: one global position, bad examples named, counted and skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

import numpy as np

from saei.data.base import Split, Task
from saei.engine.looking import LongPromptError, look
from saei.engine.seeding import derive
from saei.engine.sifting import Looked
from saei.errors import DataError
from saei.policy import Policy
from saei.types import View

PREFLIGHT = 64
"""Examples that are looked at before training."""


class ViewStream:
    """Clean views of a task's training examples, in an order that is a pure function of seed and position.

    A finite task is gone through in a new permutation each epoch.

    Args:
        task: Where examples come from.
        policy: Makes the views.
        seed: Seed of the permutations.
        max_bad_share: Share of unusable examples, among the different ones seen, above which the run stops; of
            fewer than ``PREFLIGHT`` as many may be unusable as of ``PREFLIGHT``, up to half.
    """

    def __init__(self, task: Task, policy: Policy, *, seed: int, max_bad_share: float) -> None:
        self._task = task
        self._policy = policy
        self._seed = seed
        self._max_bad_share = max_bad_share
        self.position = 0
        self.bad = 0
        self._seen: set[tuple[Split, int]] = set()
        self._known_bad: dict[tuple[Split, int], str] = {}
        self._too_long: set[tuple[Split, int]] = set()
        self._reported = 0

    def preflight(self) -> View:
        """Look at the first examples, so that data errors are found before training, and return the first view.

        Raises:
            DataError: If there are no examples or too many of them are unusable.
        """
        size = self._task.size("train")
        if size == 0:
            raise DataError(
                "A task needs at least one training example.",
                reason=f"'{self._task.name()}' has none.",
                remedy="Check the path, the split and the filters of the task.",
            )
        first = None
        for index in count() if size is None else range(size):
            view = self._look(index, "train")
            if view is None:
                self._check("train")
            first = first or view
            if first is not None and index + 1 >= PREFLIGHT:
                break
        assert first is not None  # else the check has raised
        return first

    def take(self, n: int) -> list[View]:
        """Return the next ``n`` usable views and move on.

        Raises:
            DataError: If the share of unusable examples exceeds the limit.
        """
        views: list[View] = []
        while len(views) < n:
            index = self._index(self.position)
            view = self._look(index, "train")
            self.position += 1
            if view is None:
                self.bad += ("train", index) in self._known_bad
                self._check("train")
            else:
                views.append(view)
        return views

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

    def admit(self, split: Split, found: Iterable[Looked]) -> None:
        """Take note of examples that were looked at already; what is wrong with them is not reported again."""
        for one in found:
            self._seen.add((split, one.index))
            if one.too_long:
                self._too_long.add((split, one.index))
            elif one.report:
                self._known_bad[split, one.index] = f"{split} example {one.index} is skipped: {one.report}"
        self._reported = len(self._known_bad)

    @property
    def too_long(self) -> int:
        """How many of the training examples met so far are left out for the length of their prompts."""
        return sum(split == "train" for split, _ in self._too_long)

    def unreported(self) -> list[str]:
        """Return what was wrong with each unusable example met since the last call, once each."""
        new = list(self._known_bad.values())[self._reported :]
        self._reported += len(new)
        return new

    def state_dict(self) -> dict[str, int]:
        """Return the position and the count of bad examples."""
        return {"position": self.position, "bad": self.bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.position, self.bad = int(state["position"]), int(state["bad"])

    def _index(self, position: int) -> int:
        size = self._task.size("train")
        if size is None:
            return position
        epoch, place = divmod(position, size)
        return int(np.random.default_rng(derive(self._seed, "epoch", epoch)).permutation(size)[place])

    def _look(self, index: int, split: Split) -> View | None:
        self._seen.add((split, index))
        if (split, index) in self._known_bad or (split, index) in self._too_long:
            return None
        try:
            return look(self._task, self._policy, index, split)
        except LongPromptError:
            self._too_long.add((split, index))
        except DataError as error:
            self._known_bad[split, index] = f"{split} example {index} is skipped: {error}"
        return None

    def _check(self, split: Split) -> None:
        """Count the unusable among the different examples seen, but not among fewer than ``PREFLIGHT``.

        Too long a prompt is no mistake, but some have to be short enough.
        """
        size = self._task.size(split)
        few = PREFLIGHT if size is None else min(PREFLIGHT, size)
        seen = max(few, sum(known == split for known, _ in self._seen))
        bad = [report for (known, _), report in self._known_bad.items() if known == split]
        allowed = max(self._max_bad_share * seen, min(self._max_bad_share * PREFLIGHT, seen / 2))
        too_long = sum(known == split for known, _ in self._too_long)
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
