"""The task and template seams: where examples come from, how they are asked, and how answers are reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field

from saei.config.strategy import Strategy, StrategyConfig
from saei.types import Example

Split: TypeAlias = Literal["train", "eval"]
Meta: TypeAlias = Mapping[str, Any]


def _never(meta: Meta) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Reporting:
    """How a task's scores are reported. All functions take ``Example.meta``.

    Attributes:
        score: Name of the share of right answers, such as ``accuracy``.
        by: Keys of ``meta`` by which scores are also reported. An example whose value is a list counts in each of its
            groups, an example without the key in none.
        together: Scores of groups that count only if all of their answers are right: from the score's name to a
            function that returns the example's group, None if it is in none.
        cluster: Keys of ``meta``; examples with the same values are not independent, such as versions of one problem.
        agreement: How the grades compare with the data set's own evaluation.
        approximate: Whether the grade of an example only approximates that evaluation.
        unlabelled: Splits of the data whose answers are not public.
        split_field: The field of the task's config that names the split of the data.
        max_new_tokens: Longest response, unless the user or the run says otherwise.

    Example:
        HallusionBench: ``Reporting(score="aAcc", by=("category",), together={"fAcc": figure_group})``.
    """

    score: str = "accuracy"
    by: tuple[str, ...] = ("kind",)
    together: Mapping[str, Callable[[Meta], Hashable | None]] = field(default_factory=dict)
    cluster: tuple[str, ...] = ()
    agreement: str = "by rules; the data has no evaluation of its own to compare with"
    approximate: Callable[[Meta], bool] = _never
    unlabelled: tuple[str, ...] = ()
    split_field: str = "splits.eval"
    max_new_tokens: int | None = None


class Task(Strategy, ABC):
    """A source of examples, pure in (config, split, index).

    To add one: derive, nest a ``Config``, implement ``example``; override ``size`` where examples are finite.
    """

    kind: ClassVar[str] = "task"
    fetches: ClassVar[bool] = False
    """Whether the default config reads from a hub; the contract suite skips such tasks, which need their own tests."""
    reporting: ClassVar[Reporting] = Reporting()
    """How ``saei eval`` groups and labels scores."""
    strategies: ClassVar[tuple[str, ...]] = ()
    """All values that ``strategy`` may return, so that one that no response used is reported as 0."""
    oracle: ClassVar[bool] = False
    """Whether ``answer`` knows what a changed question asks."""

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
        """Return the config with open values resolved, such as a hub's revision; the run records it."""
        return self.config

    def splits(self) -> Sequence[Split]:
        """Return the splits that the task has examples for."""
        return ("train", "eval")

    def notes(self) -> Sequence[str]:
        """Return what the user should know about the examples, one sentence each; complete after a call of ``size``."""
        return ()

    def fingerprint(self, split: Split = "train") -> str:
        """Return a text that changes whenever an example of the split may have."""
        return self.pinned().model_dump_json()

    def strategy(self, example: Example, text: str) -> str | None:
        """Return the solution strategy that a response used, None if it is none that the task knows."""
        return None

    def answer(self, example: Example, question: str) -> str | None:
        """Return the right answer if a question were asked about an example's pictures in place of its own.

        To be implemented together with ``oracle = True``. It takes any text, as an attack on the question makes it, and
        returns the example's own answer for the example's own question.

        Args:
            example: One of this task's.
            question: What is asked instead.

        Returns:
            The answer; None where the question is unanswerable: it has no one clear answer, or the task cannot tell.

        Raises:
            NotImplementedError: If the task has no oracle.
        """
        raise NotImplementedError(f"{self.config.type} has no oracle for changed questions: `oracle` is False.")

    def wordings(self, example: Example) -> tuple[str, ...]:
        """Return other questions with the meaning and the answer of an example's own, which is not among them."""
        return ()

    def solution(self, example: Example, answer: str) -> str | None:
        """Return the solution that a right answer gives, the same text for answers that differ in form alone.

        It is what is counted where distinct solutions are. By default an example has one, its gold answer. None if
        the answer is wrong, where the task can tell.
        """
        return example.answer

    def best_solutions(self, example: Example) -> tuple[str, ...]:
        """Return the solutions that are equally good and that none is better than, such as all shortest ways."""
        return (example.answer,)

    def guesses(self, example: Example, rng: np.random.Generator) -> Mapping[str, str]:
        """Draw answers that keep the task's rules without solving it, by the name of who guesses so.

        They say how much of pass@k needs no solution, as ``saei data floor`` prints it. Empty where nothing is known of
        legal answers but those of the training examples.
        """
        return {}


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
