"""A Python function that a program has at hand as reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeAlias

from saei.config.strategy import StrategyConfig
from saei.errors import ConfigError
from saei.rewards.base import Attempt, Reward
from saei.rewards.function import graded
from saei.types import Example, Grade

RewardFunction: TypeAlias = Callable[..., float | Grade]
"""A function of one response; see ``InMemory``."""

ARGUMENTS: Mapping[str, Callable[[Attempt], Any]] = {
    "attempt": lambda attempt: attempt,
    "text": lambda attempt: attempt.text,
    "example": lambda attempt: attempt.example,
    "question": lambda attempt: attempt.example.question,
    "answer": lambda attempt: attempt.example.answer,
    "truncated": lambda attempt: attempt.truncated,
    "length": lambda attempt: attempt.length,
}
"""What a function may take, by the names of its parameters."""


class InMemory(Reward):
    """The value of a Python function that was given to ``Trainer``; a file cannot name it.

    The function takes any of these by name: ``text`` (the response), ``question`` and ``answer`` (the gold answer),
    ``example``, ``truncated``, ``length`` (tokens, None where not known), or ``attempt``, which has all of them.

    ```python
    def reward(text: str, answer: str) -> float:
        return float(text.endswith(answer))
    ```

    A number is the reward, and from 1 on the answer counts as right; a ``Grade`` says also which answer was read.
    """

    class Config(StrategyConfig):
        """Fields, filled by ``Trainer``.

        Attributes:
            name: Name of the function.
        """

        type: Literal["in-memory"] = "in-memory"
        name: str

    config: Config
    correct_from: ClassVar[float] = 1.0

    def __init__(self, config: Config, function: RewardFunction | None = None) -> None:
        super().__init__(config)
        if function is None:
            raise ConfigError(
                "The reward of this run is a function of a Python program.",
                reason=f"No file has '{config.name}'.",
                remedy="Resume it from Python with the same function: Trainer(config, resume=run, reward=…). Evaluate "
                "its checkpoints by another reward: --set reward=accuracy-format, or --set "
                "'reward={type: function, path: ./file.py:name}'.",
            )
        self._function = function
        self._arguments = _arguments(function, config.name)

    @classmethod
    def of(cls, function: RewardFunction) -> Self:
        """Return a function as a reward.

        Raises:
            ConfigError: If it takes what no reward is given.
        """
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return cls(cls.Config(name=name), function)

    @property
    def graded(self) -> bool:
        """True: a function's rewards may lie between right and wrong."""
        return True

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response.

        Raises:
            TrainingError: From what the function raised, or if it returned no finite number.
        """
        return self.grade_all([Attempt(example, text, truncated)])[0]

    def grade_all(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """Return the grade of each response."""
        return [self._grade(attempt) for attempt in attempts]

    def _grade(self, attempt: Attempt) -> Grade:
        arguments = {name: ARGUMENTS[name](attempt) for name in self._arguments}
        return graded(
            lambda: self._function(**arguments),
            self.config.name,
            attempt.example,
            attempt.text,
            correct_from=self.correct_from,
        )


def _arguments(function: RewardFunction, name: str) -> list[str]:
    """Return the names of a function's parameters that it is given.

    Raises:
        ConfigError: If it takes others, without a default.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:  # a few functions written in C have no signature
        raise _refused(name, f"its parameters are not known ({error})") from error
    unknown = [
        str(parameter)
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD
        and (parameter.name not in ARGUMENTS or parameter.kind is parameter.POSITIONAL_ONLY)
        and (parameter.default is parameter.empty or parameter.kind is parameter.VAR_POSITIONAL)
    ]
    if unknown:
        raise _refused(name, f"it takes {', '.join(unknown)}")
    return [parameter.name for parameter in parameters if parameter.name in ARGUMENTS]


def _refused(name: str, reason: str) -> ConfigError:
    return ConfigError(
        "A reward function is given what it names.",
        reason=f"'{name}': {reason}.",
        remedy=f"Name its parameters from these: {', '.join(ARGUMENTS)}; for example "
        "lambda text, answer: float(answer in text).",
    )
