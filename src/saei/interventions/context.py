"""What a step gives to samplers, interventions, gates and guards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from saei.need import Need
from saei.policy import Policy
from saei.policy.sampling import Prefixes
from saei.types import Example, Grade, Group, Response, View

N = TypeVar("N", int, float)
T = TypeVar("T")


def _untimed(name: str) -> AbstractContextManager[Any]:
    return nullcontext()


def _no_more(n: int) -> Sequence[View]:
    return ()


class Total(Protocol):
    """Adds up a number over all processes."""

    def __call__(self, number: N, /) -> N:
        """Return the sum of every process's number; all of them have to call it equally often."""


class Gather(Protocol):
    """Collects a value of all processes."""

    def __call__(self, value: T, /) -> list[T]:
        """Return every process's value; all of them have to call it equally often, with tensors on the CPU."""


def _of_one_process(number: N) -> N:
    return number


def _from_one_process(value: T) -> list[T]:
    return [value]


Oracle: TypeAlias = Callable[[Example, str], str | None]
"""Returns the right answer to another question about an example, None if it is unanswerable."""


def answer_kept(example: Example, question: str) -> str:
    """Return the example's own answer, whatever is asked: for measurements, which grade nothing."""
    return example.answer


@dataclass(frozen=True, eq=False, slots=True)
class StepContext:
    """The policy and the circumstances of one step; every engine provides them.

    Attributes:
        policy: The current policy.
        progress: Share of the training done, in [0, 1].
        sources: Each group's own source of randomness, on the CPU, by one of its views; see ``GroupSources``. Whatever
            belongs to a group is drawn from it, so that results do not depend on which process draws which groups.
        phase: ``with step.phase("attack"):`` accounts the time spent inside.
        traced: The step is recorded for people to look at: attacks keep an ``AttackTrace``.
        answer: The task's oracle; None where it has none, so that an answer is taken to be kept.
    """

    policy: Policy
    progress: float
    sources: Callable[[View], torch.Generator]
    phase: Callable[[str], AbstractContextManager[Any]] = field(default=_untimed)
    traced: bool = False
    answer: Oracle | None = None

    def generator_of(self, view: View) -> torch.Generator:
        """Return the source of randomness of a view's group."""
        return self.sources(view)

    def generators(self, views: Sequence[View]) -> list[torch.Generator]:
        """Return the source of randomness of each view's group."""
        return [self.sources(view) for view in views]

    def states(self, views: Sequence[View]) -> list[bytes]:
        """Return the states of the views' sources of randomness; equal ones mean that nothing was drawn in between."""
        return [self.sources(view).get_state().numpy().tobytes() for view in views]

    def sample(
        self,
        views: Sequence[View],
        counts: Sequence[int],
        *,
        prefixes: Prefixes | None = None,
        temperature: float | None = None,
    ) -> list[list[Response]]:
        """Draw responses to views of any groups, each from its group's source of randomness.

        Args:
            views: What the policy looks at; there may be none.
            counts: How many responses each view gets.
            prefixes: See ``Policy.sample``.
            temperature: Likewise.
        """
        if not views:
            return []
        with self.phase("sample"):
            return self.policy.sample(
                views, counts, generators=self.generators(views), prefixes=prefixes, temperature=temperature
            )

    def statistics(
        self,
        needs: Collection[Need],
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        *,
        clean: Sequence[View] | None = None,
    ) -> list[dict[Need, Tensor]]:
        """Return statistics of responses drawn in this step, for gates and guards: for each view ``[N, T]`` by need.

        It is ``Policy.statistics`` for responses of the policy as it is now: what is known from sampling them is not
        computed again.

        Args:
            needs: The statistics, without gradient; gates and guards declare them in their ``needs``.
            views: The views; there may be none.
            responses: For each its responses.
            clean: The clean view of each one's group, None if these are the clean ones.
        """
        return self.policy.statistics(needs, views, responses, clean=clean, drawn=True) if views else []


@dataclass(frozen=True, eq=False, slots=True)
class Supply:
    """What only saei's own loop provides while it draws; TRL does not, since it grades and counts afterwards.

    A strategy that uses it declares so, and is refused where there is none: see ``Gate.needs_supply`` and
    ``SamplingPlan.needs_supply``.

    Attributes:
        grade: Grades a view's responses; no response of a step is graded twice.
        more: ``supply.more(n)`` moves on in the examples and returns up to n further clean views; of several
            processes, which all have to request the same n, each gets its share.
        total: ``supply.total(number)`` adds up a number over all processes, which all have to call it equally often.
            A running state that comes from such totals is the same in every process, and goes on in any number of them.
        gather: ``supply.gather(value)`` has the values of all processes, which all have to call it equally often.
        graded: The reward is a number between right and wrong; groups then vary if their rewards differ.
    """

    grade: Callable[[View, Sequence[Response]], Sequence[Grade]]
    more: Callable[[int], Sequence[View]] = field(default=_no_more)
    total: Total = field(default=_of_one_process)
    gather: Gather = field(default=_from_one_process)
    graded: bool = False

    def grade_group(self, group: Group) -> Sequence[Grade]:
        """Return the grades of a group's responses, each as an answer to the view that it is trained under."""
        grades: dict[int, Grade] = {}
        for view_number in dict.fromkeys(group.updated_on):
            numbers = [n for n, of_view in enumerate(group.updated_on) if of_view == view_number]
            of_view = self.grade(group.views[view_number], [group.responses[n] for n in numbers])
            grades |= zip(numbers, of_view, strict=True)
        return [grades[n] for n in range(len(group.responses))]

    def varies(self, grades: Sequence[Grade]) -> bool:
        """Return whether a group's grades differ, so that it teaches something.

        A graded reward is compared as it is. Otherwise it is correctness that has to differ: the reward's part for the
        format may differ where all responses are right, or all wrong.
        """
        return len({grade.reward if self.graded else grade.correct for grade in grades}) > 1
