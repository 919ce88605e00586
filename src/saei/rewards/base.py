"""The reward seam: from a response to a grade."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from saei.strategy import Strategy
from saei.types import Example, Grade


class Reward(Strategy, ABC):
    """Grades responses. To add one: derive, nest a ``Config``, implement ``grade``."""

    kind: ClassVar[str] = "reward"

    @abstractmethod
    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response.

        A reward is a pure function of its arguments and never raises for what a policy may write.

        Args:
            example: The problem with its gold answer.
            text: The decoded response without special tokens.
            truncated: Whether the length limit ended the response.
        """
