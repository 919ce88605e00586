"""A penalty on length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.strategy import StrategyConfig
from saei.rewards.base import Attempt, Reward
from saei.types import Example, Grade


class SoftOverlong(Reward):
    """0 up to a length, then down linearly to -1 at the longest: DAPO's soft overlong punishment (arXiv 2503.14476).

    A summand of `sum`; alone it calls no answer right.
    """

    class Config(StrategyConfig):
        """Fields of ``soft-overlong``.

        Attributes:
            longest: Tokens from which the penalty is -1; usually `sampling.max_new_tokens`.
            buffer: Tokens before that over which it grows from 0.
        """

        type: Literal["soft-overlong"] = "soft-overlong"
        longest: int = Field(ge=1, le=2**20)
        buffer: int = Field(ge=1, le=2**20)

        @model_validator(mode="after")
        def _room(self) -> Self:
            if self.buffer > self.longest:
                raise ValueError(
                    f"The buffer is the end of the longest response: {self.buffer} tokens of {self.longest}. "
                    "Set buffer to at most longest."
                )
            return self

    config: Config

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of a response of unknown length: of the longest if it was cut off, else without penalty."""
        return self._of_length(self.config.longest if truncated else 0)

    def grade_all(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """Return the penalty of each response, by its length in tokens."""
        return [
            self._of_length(attempt.length)
            if attempt.length is not None
            else self.grade(attempt.example, attempt.text, truncated=attempt.truncated)
            for attempt in attempts
        ]

    def _of_length(self, length: int) -> Grade:
        config = self.config
        over = length - (config.longest - config.buffer)
        penalty = -min(1.0, max(0.0, over / config.buffer))
        return Grade(penalty, False, {"overlong": penalty}, reason=f"{length} tokens")
