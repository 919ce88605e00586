"""Sampled accuracy on the clean view."""

from __future__ import annotations

from collections.abc import Sequence

from saei.evaluation.answers import AnswerSet
from saei.evaluation.metrics import mean


def accuracy_metrics(answer_sets: Sequence[AnswerSet]) -> dict[str, float]:
    """Return avg@k accuracy, its standard error over examples, reward, length and the truncated share."""
    per_example = [mean([float(grade.correct) for grade in answers.grades]) for answers in answer_sets]
    average = mean(per_example)
    spread = sum((value - average) ** 2 for value in per_example) / max(1, len(per_example) - 1)
    responses = [response for answers in answer_sets for response in answers.responses]
    return {
        "accuracy": average,
        "accuracy_se": (spread / len(per_example)) ** 0.5,
        "reward": mean([grade.reward for answers in answer_sets for grade in answers.grades]),
        "length": mean([float(len(response)) for response in responses]),
        "truncated": mean([float(response.truncated) for response in responses]),
    }
