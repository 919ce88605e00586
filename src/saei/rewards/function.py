"""A Python function as reward."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from saei.config.registry import load_file
from saei.config.strategy import StrategyConfig
from saei.errors import PluginLoadError, TrainingError, cause_of, shown
from saei.rewards.base import Reward
from saei.types import Example, Grade


class Function(Reward):
    """The value of a Python function, named by where it is imported from.

    ```python
    def reward(example: Example, text: str, *, truncated: bool) -> float | Grade: ...
    ```

    A number is the reward; a ``Grade`` says also which answer was read and whether it is right. What the function
    raises, and a reward that is not finite, stops the run with the example and the response.
    """

    class Config(StrategyConfig):
        """Fields of ``function``.

        Attributes:
            path: `package.module:function`, or `./file.py:function`; a relative file starts at the working folder.
            correct_from: A number that the function returns counts as a right answer from here on.
            graded: Its numbers lie between right and wrong, so that groups vary in the reward. False for a function
                whose answers are right or wrong, with parts such as a format that shall not count as variance.
        """

        needs_consent = True

        type: Literal["function"] = "function"
        path: str
        correct_from: float = 1.0
        graded: bool = True

        @field_validator("path")
        @classmethod
        def _absolute(cls, path: str) -> str:
            module, colon, name = path.rpartition(":")
            if not colon or not module or not name.isidentifier():
                raise ValueError(f"A function is named `module:function` or `file.py:function`; got '{shown(path)}'.")
            return f"{os.path.realpath(os.path.expanduser(module))}:{name}" if module.endswith(".py") else path

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._function = _load(config.path)

    @property
    def graded(self) -> bool:
        """What the config says."""
        return self.config.graded

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response.

        Raises:
            TrainingError: From what the function raised, or if it returned no finite number.
        """
        return graded(
            lambda: self._function(example, text, truncated=truncated),
            self.config.path,
            example,
            text,
            correct_from=self.config.correct_from,
        )


def graded(call: Callable[[], Any], name: str, example: Example, text: str, *, correct_from: float) -> Grade:
    """Return what a function says about a response as a grade.

    Args:
        call: Calls the function.
        name: Names it in errors.
        example: The problem.
        text: The response.
        correct_from: A number counts as a right answer from here on.

    Raises:
        TrainingError: From what the function raised, or if it returned no finite number.
    """
    try:
        result = call()
        grade = result if isinstance(result, Grade) else Grade(float(result), float(result) >= correct_from)
        if not math.isfinite(grade.reward):
            raise ValueError(f"the reward is {grade.reward}")
    except (Exception, SystemExit) as error:  # whatever the function does
        raise TrainingError(
            "A reward function has to return a finite number or a Grade for every response.",
            reason=f"{shown(name)} on example {shown(example.id)} with the response '{shown(text)}': "
            f"{cause_of(error)}.",
            remedy="Fix the function, and resume the run.",
        ) from error
    return grade


def _load(path: str) -> Callable[..., Any]:
    source, _, name = path.rpartition(":")
    try:
        module = load_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
        function = getattr(module, name)
        if not callable(function):
            raise TypeError(f"it is a {type(function).__name__}, which cannot be called")
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise PluginLoadError(
            f"The reward function '{shown(path)}' has to be importable.",
            reason=f"{cause_of(error)}.",
            remedy="Fix that line, or give `module:function` of an installed module, or `./file.py:function`.",
        ) from error
    return function  # type: ignore[no-any-return]
