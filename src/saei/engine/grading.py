"""Grading a step's responses: each once, and as many at a time as there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saei.rewards.base import Attempt, Reward
from saei.types import Example, Grade, Group, Response, ScoredGroup, View


class StepGrader:
    """Grades the responses of one step and remembers the grades.

    Args:
        reward: What grades.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._grades: dict[Response, Grade] = {}

    def __call__(self, view: View, responses: Sequence[Response]) -> Sequence[Grade]:
        """Return the grades of a view's responses, for ``SamplingContext.grade``."""
        self._grade((view.example, one) for one in responses)
        return [self._grades[one] for one in responses]

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Return the groups with their grades; what was not graded yet is graded all at once."""
        self._grade((group.example, one) for group in groups for one in group.responses)
        return [ScoredGroup(group, tuple(self._grades[one] for one in group.responses)) for group in groups]

    def _grade(self, spoken: Iterable[tuple[Example, Response]]) -> None:
        new = [(example, one) for example, one in spoken if one not in self._grades]
        attempts = [Attempt(example, one.text, one.truncated, len(one)) for example, one in new]
        self._grades.update(zip((one for _, one in new), self._reward.grade_all(attempts), strict=True))
