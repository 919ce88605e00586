"""Sampled accuracy on the clean view."""

from __future__ import annotations

from collections.abc import Sequence

from saei.evaluation.answers import Answered
from saei.evaluation.metrics import mean


def accuracy_metrics(answered: Sequence[Answered]) -> dict[str, float]:
    """Return avg@k accuracy, its standard error over examples, reward, length and the truncated share."""
    per_example = [mean([float(grade.correct) for grade in one.grades]) for one in answered]
    average = mean(per_example)
    spread = sum((value - average) ** 2 for value in per_example) / max(1, len(per_example) - 1)
    responses = [response for one in answered for response in one.responses]
    return {
        "accuracy": average,
        "accuracy_se": (spread / len(per_example)) ** 0.5,
        "reward": mean([grade.reward for one in answered for grade in one.grades]),
        "length": mean([float(len(response)) for response in responses]),
        "truncated": mean([float(response.truncated) for response in responses]),
    }
