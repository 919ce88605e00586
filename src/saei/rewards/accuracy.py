"""The common base of rewards for a right answer in a required form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.rewards.base import Attempt, Reward, Weight
from saei.rewards.graders.grading import answer_type, check_gold, grade_answers
from saei.rewards.graders.workers import TIME_LIMIT_S
from saei.rewards.judge import Judge, JudgeClient, Opinion
from saei.types import Example, Grade


class Accuracy(Reward):
    """A weighted sum of accuracy and form.

    Accuracy is decided by the grader of the example's type of answer. To add a convention: implement
    ``final_answer`` and ``well_formed``, and give the weights.
    """

    class Config(StrategyConfig):
        """Fields of every reward of accuracy and form.

        Attributes:
            accuracy: Weight of a right answer.
            format: Weight of the asked form.
            time_limit: CPU seconds of algebra for one answer; an answer that takes longer is wrong.
            judge: A model that decides on free-form answers which rules call wrong; None for rules alone. Its
                grades are marked by the part `judged`, answers it left without one by `judge_unavailable`.
        """

        type: str
        accuracy: Weight
        format: Weight
        time_limit: float = Field(default=TIME_LIMIT_S, gt=0.0, le=3600.0)
        judge: Judge | None = None

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self._judge = None if self.config.judge is None else JudgeClient(self.config.judge)

    @abstractmethod
    def final_answer(self, text: str) -> str | None:
        """Return the final answer of a response, None if it gives none."""

    @abstractmethod
    def well_formed(self, text: str) -> bool:
        """Return whether a response has the asked form."""

    def grade(self, example: Example, text: str, *, truncated: bool = False) -> Grade:
        """Return the grade of one response."""
        return self.grade_all([Attempt(example, text, truncated)])[0]

    def grade_all(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """Return the grade of each response; what needs algebra is shared among worker processes."""
        config = self.config
        answers = [self.final_answer(attempt.text) for attempt in attempts]
        pairs = [(attempt.example, answer) for attempt, answer in zip(attempts, answers, strict=True)]
        verdicts = grade_answers(pairs, time_limit_s=config.time_limit)
        opinions: dict[int, Opinion] = {}
        if self._judge is not None:
            to_judge = [
                n
                for n, (example, answer) in enumerate(pairs)
                if answer and not verdicts[n].correct and answer_type(example) in self._judge.config.types
            ]
            judged = self._judge.judge([(pairs[n][0], str(pairs[n][1])) for n in to_judge])
            opinions = dict(zip(to_judge, judged, strict=True))
            verdicts = [opinions[n].verdict if n in opinions else verdict for n, verdict in enumerate(verdicts)]
        grades = []
        for n, (attempt, verdict) in enumerate(zip(attempts, verdicts, strict=True)):
            formed = self.well_formed(attempt.text)
            parts = {"accuracy": float(verdict.correct), "format": float(formed)}
            if self._judge is not None:
                parts["judged"] = float(n in opinions and opinions[n].available)
                parts["judge_unavailable"] = float(n in opinions and not opinions[n].available)
            reward = config.accuracy * verdict.correct + config.format * formed
            grades.append(Grade(reward, verdict.correct, parts, answers[n], verdict.reason))
        return grades

    def check(self, example: Example) -> None:
        """Check that the gold answer can be read as the type of answer that it is.

        Raises:
            DataError: If it cannot.
        """
        check_gold(example)
