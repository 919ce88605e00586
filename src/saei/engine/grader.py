"""Grading a step's responses: equal responses of a group once, and all new ones in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from saei.rewards.base import Attempt, Reward
from saei.runtime.processes import Processes
from saei.types import Grade, Group, Response, ScoredGroup, View

_Key: TypeAlias = tuple[int, str, str, str, bool, int]
"""Index of the group, question and its answer, then text, whether it was cut off, length in tokens."""


class StepGrader:
    """Grades the responses of one step and remembers the grades.

    Args:
        reward: Grades them.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._grades: dict[_Key, Grade] = {}

    def __call__(self, view: View, responses: Sequence[Response]) -> Sequence[Grade]:
        """Return the grades of a view's responses, for ``Supply.grade``."""
        self._grade((view, response) for response in responses)
        return [self._grades[_key(view, response)] for response in responses]

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Return the groups with their grades; what was not graded yet is graded all at once."""
        answers = [[(group.update_view(n), response) for n, response in enumerate(group.responses)] for group in groups]
        self._grade(answer for group_answers in answers for answer in group_answers)
        return [
            ScoredGroup(group, tuple(self._grades[_key(*answer)] for answer in group_answers))
            for group, group_answers in zip(groups, answers, strict=True)
        ]

    def _grade(self, answers: Iterable[tuple[View, Response]]) -> None:
        by_key = {_key(view, response): (view, response) for view, response in answers}
        new = {key: answer for key, answer in by_key.items() if key not in self._grades}
        attempts = [
            Attempt(view.example, response.text, response.truncated, len(response)) for view, response in new.values()
        ]
        self._grades.update(zip(new, self._reward.grade_all(attempts), strict=True))


def rewards_of_all(scored: Sequence[ScoredGroup], processes: Processes) -> list[float]:
    """Return the rewards of the groups of all processes, in the order of the groups' indices; collective.

    Args:
        scored: This process's groups.
        processes: Those that train together.
    """
    rewards: dict[int, Sequence[float]] = {}
    for of_process in processes.gather({group.group.index: group.rewards for group in scored}):
        rewards |= of_process
    return [reward for index in sorted(rewards) for reward in rewards[index]]


def _key(view: View, response: Response) -> _Key:
    """Return all that a grade depends on: a reward is a pure function of it."""
    asked = view.example
    return view.index, asked.question, asked.answer, response.text, response.truncated, len(response)
