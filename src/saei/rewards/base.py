"""The reward seam: from a response to a grade."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from pydantic import Field

from saei.config.strategy import Strategy
from saei.types import Example, Grade

Weight: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A weight of rewards. Larger ones would leave nothing of the others in float32."""


@dataclass(frozen=True, eq=False, slots=True)
class Attempt:
    """One response to be graded.

    Attributes:
        example: The problem with its gold answer.
        text: The decoded response without special tokens.
        truncated: Whether the length limit ended the response.
        length: Tokens of the response, None where they are not known.
    """

    example: Example
    text: str
    truncated: bool = False
    length: int | None = None


class Reward(Strategy, ABC):
    """Grades responses. To add one: derive, nest a ``Config``, implement ``grade``.

    Override ``grade_all`` where many responses together are cheaper than one after another, or where the length in
    tokens matters; override ``check`` where a gold answer can be one that no response could be compared with.
    """

    kind: ClassVar[str] = "reward"

    @property
    def graded(self) -> bool:
        """Whether rewards lie between right and wrong; the variance of a group is then that of its rewards."""
        return False

    @abstractmethod
    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response.

        A reward is a pure function of its arguments and never raises for what a policy may write.

        Args:
            example: The problem with its gold answer.
            text: The decoded response without special tokens.
            truncated: Whether the length limit ended the response.
        """

    def grade_all(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """Return the grade of each response, the same as one by one."""
        return [self.grade(attempt.example, attempt.text, truncated=attempt.truncated) for attempt in attempts]

    def check(self, example: Example) -> None:
        """Check that responses to an example can be graded.

        Raises:
            DataError: If its gold answer cannot be read.
        """
