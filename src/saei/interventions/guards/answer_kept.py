"""The guard against views that no longer show what was asked about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Guard
from saei.interventions.context import StepContext, Supply
from saei.interventions.guards.origins import drops_of, intervened_origins, origins_of
from saei.types import CLEAN, Drops, Grade, ScoredGroup

_RIGHT = object()
"""Stands for the right answer in whatever way it is written."""


class AnswerKept(Guard):
    """Drops an origin's responses of a group if none of them gives the answer that the clean responses give.

    That answer is by ``majority`` the one that most clean responses give, any of several that are equally frequent;
    responses without an answer do not vote. By ``gold`` it is the right one, if a clean response gives it. A group
    whose clean responses give no such answer keeps all. Two answers are the same if both are right, or if they are
    written alike. What decides is whether an origin gives the answer at all, so no response is dropped for its own
    reward. Source: original.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            answer: The answer that has to be given: the clean responses' ``majority``, or the ``gold`` one.
        """

        type: Literal["answer-kept"] = "answer-kept"
        answer: Literal["majority", "gold"] = "majority"

    config: Config
    reasons: ClassVar[tuple[str, ...]] = ("answer-lost",)

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Drop the origins that give none of the answers that are kept."""
        return [drops_of(each, self._lost(each), "answer-lost") for each in scored]

    def _lost(self, scored: ScoredGroup) -> list[str]:
        answers = [_answer(grade) for grade in scored.grades]
        kept = self._kept([answers[n] for n in origins_of(scored).get(CLEAN, [])])
        return [
            origin
            for origin, numbers in intervened_origins(scored).items()
            if kept and not any(answers[n] in kept for n in numbers)
        ]

    def _kept(self, clean: Sequence[object]) -> Collection[object]:
        """Return the answers of which an origin has to give one; none where the clean responses say nothing."""
        if self.config.answer == "gold":
            return [_RIGHT] if _RIGHT in clean else []
        votes = Counter(answer for answer in clean if answer is not None)
        return [answer for answer, count in votes.items() if count == max(votes.values())]


def _answer(grade: Grade) -> object:
    """Return a response's answer, None if it has none."""
    return _RIGHT if grade.correct else grade.answer
