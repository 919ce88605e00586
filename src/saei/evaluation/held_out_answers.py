"""Which held-out examples a run answered rightly at each evaluation: ``held_out.jsonl``, by which runs are paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saei.evaluation.records import ExampleAnswers, cluster_of
from saei.runtime.files import json_lines
from saei.runtime.run_dir import HELD_OUT

if TYPE_CHECKING:
    from saei.evaluation.answers import AnswerSet


def answers_of(answer_sets: Sequence[AnswerSet], cluster: Sequence[str]) -> list[ExampleAnswers]:
    """Return which responses are right, by example.

    Args:
        answer_sets: The examples of an evaluation with their graded responses.
        cluster: Keys of ``meta`` that examples have in common if they are not independent.
    """
    return [
        ExampleAnswers(
            number=answers.view.index,
            correct=tuple(grade.correct for grade in answers.grades),
            cluster=cluster_of(answers.view.example.meta, tuple(cluster)),
        )
        for answers in answer_sets
    ]


def plain(step: int, answers: Sequence[ExampleAnswers]) -> dict[str, Any]:
    """Return the line of an evaluation.

    Example:
        ``{"step": 20, "numbers": [0, 1], "correct": ["1101", "0000"], "clusters": [null, null]}``
    """
    return {
        "step": step,
        "numbers": [example.number for example in answers],
        "correct": ["".join("01"[correct] for correct in example.correct) for example in answers],
        "clusters": [example.cluster for example in answers],
    }


def read_answers(run: Path, step: int) -> list[ExampleAnswers]:
    """Return the answers of a run's evaluation, none where they were not kept or are damaged.

    Args:
        run: The run's folder.
        step: Steps done before the evaluation.
    """
    try:
        lines = [line for _, line in json_lines((run / HELD_OUT).read_bytes()) if line and line.get("step") == step]
        return _answers(lines[-1]) if lines else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _answers(line: Mapping[str, Any]) -> list[ExampleAnswers]:
    return [
        ExampleAnswers(int(number), tuple(sign == "1" for sign in correct), cluster=cluster)
        for number, correct, cluster in zip(line["numbers"], line["correct"], line["clusters"], strict=True)
    ]
