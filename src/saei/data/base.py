"""The task and template seams: where examples come from and how they are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from saei.config.strategy import Strategy, StrategyConfig
from saei.data.reporting import Reporting
from saei.types import Example

Split: TypeAlias = Literal["train", "eval"]


class Task(Strategy, ABC):
    """A source of examples, pure in (config, split, index).

    To add one: derive, nest a ``Config``, implement ``example``; override ``size`` where examples are finite.
    """

    kind: ClassVar[str] = "task"
    fetches: ClassVar[bool] = False
    """Whether the default config reads from a hub; the contract suite does not, and leaves such tasks to their own."""
    reporting: ClassVar[Reporting] = Reporting()
    """What ``saei eval`` groups scores by."""
    strategies: ClassVar[tuple[str, ...]] = ()
    """All that ``strategy`` may return, so that a way that nothing took is reported as 0."""

    class Config(StrategyConfig):
        """Fields of every task.

        Attributes:
            seed: Seed of everything random in the examples; splits differ by themselves.
        """

        seed: int = Field(default=0, ge=0, lt=2**63)

    config: Config

    @abstractmethod
    def example(self, index: int, split: Split = "train") -> Example:
        """Return example ``index`` of a split; the same arguments give the same example in any process.

        It may be the same object each time.

        Raises:
            DataError: If this one example is unusable (a broken image, an empty answer).
        """

    def size(self, split: Split = "train") -> int | None:
        """Return the number of examples of a split, None for a generator without end."""
        return None

    def pinned(self) -> StrategyConfig:
        """Return the config with whatever was open in it and is known now, such as a hub's revision; it is recorded."""
        return self.config

    def splits(self) -> Sequence[Split]:
        """Return the splits that the task has examples for."""
        return ("train", "eval")

    def notes(self) -> Sequence[str]:
        """Return what the user should know about the examples, one sentence each; complete once ``size`` was asked."""
        return ()

    def fingerprint(self, split: Split = "train") -> str:
        """Return a text that changes whenever an example of the split may have."""
        return self.pinned().model_dump_json()

    def strategy(self, example: Example, text: str) -> str | None:
        """Return which known way of solving the example a response took, None where the task knows none."""
        return None


class Template(Strategy, ABC):
    """Turns an example into chat messages; the model's own chat template does the rest."""

    kind: ClassVar[str] = "template"
    literals: ClassVar[tuple[str, ...]] = ()
    """Strings of a well-formed response that carry form, not content (for ``exclude: [template]``)."""

    @abstractmethod
    def messages(self, example: Example) -> list[Mapping[str, Any]]:
        """Return Hugging Face chat messages, with one ``{"type": "image"}`` per image of the example.

        An image stands where its marker is in the question, those without a marker in front;
        ``saei.data.templates.user_turn`` does so.
        """


def check_data(task: Task, splits: Sequence[Split] = ("train", "eval")) -> None:
    """Read the tables of a task: their files, their columns, and that there are rows.

    Raises:
        DataError: If the data cannot be used.
    """
    for split in splits:
        task.size(split)
