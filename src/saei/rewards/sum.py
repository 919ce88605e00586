"""A weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.registry import RewardField
from saei.config.strategy import Strategy, StrategyConfig
from saei.rewards.base import Attempt, Reward, Weight
from saei.types import Example, Grade


class Sum(Reward):
    """A weighted sum of rewards; the first decides which answer was given and whether it is right."""

    class Config(StrategyConfig):
        """Fields of ``sum``.

        Attributes:
            of: The rewards; the first is the one that accuracy is counted on.
            weights: One for each, None for 1 each.
        """

        type: Literal["sum"] = "sum"
        of: tuple[RewardField, ...] = Field(min_length=1)
        weights: tuple[Weight, ...] | None = None

        @model_validator(mode="after")
        def _one_weight_each(self) -> Self:
            if self.weights is not None and len(self.weights) != len(self.of):
                raise ValueError(f"Each reward has one weight: {len(self.of)} rewards, {len(self.weights)} weights.")
            return self

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._rewards: list[Reward] = [reward.build() for reward in config.of]
        self._weights = config.weights or (1.0,) * len(config.of)

    @property
    def graded(self) -> bool:
        """Whether the first reward, which decides what is right, is graded."""
        return self._rewards[0].graded

    def parts(self) -> Mapping[str, Strategy]:
        """Return the summands."""
        return {f"{place}-{reward.name()}": reward for place, reward in enumerate(self._rewards)}

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response."""
        return self.grade_all([Attempt(example, text, truncated)])[0]

    def grade_all(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """Return the grade of each response; a part that two rewards share is stored under the name of each."""
        columns = [reward.grade_all(attempts) for reward in self._rewards]
        return [self._add(grades) for grades in zip(*columns, strict=True)]

    def check(self, example: Example) -> None:
        """Check the example by each of the rewards.

        Raises:
            DataError: If one of them cannot grade responses to it.
        """
        for reward in self._rewards:
            reward.check(example)

    def _add(self, grades: Sequence[Grade]) -> Grade:
        names = [name for grade in grades for name in grade.parts]
        parts = {
            f"{reward.name()}/{name}" if names.count(name) > 1 else name: value
            for reward, grade in zip(self._rewards, grades, strict=True)
            for name, value in grade.parts.items()
        }
        total = sum(weight * grade.reward for weight, grade in zip(self._weights, grades, strict=True))
        reason = "; ".join(grade.reason for grade in grades if grade.reason)
        return Grade(total, grades[0].correct, parts, grades[0].answer, reason)
