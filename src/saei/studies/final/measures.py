"""From graded responses to the measures of a final evaluation, and what is kept of each problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saei.builtin.demonstrations import content_words
from saei.data.base import Task
from saei.evaluation.answers import AnswerSet
from saei.evaluation.metrics import mean
from saei.evaluation.statistics.pass_at import pass_at
from saei.grids import MOVES
from saei.studies.statistics.coverage import gained_and_lost, rarefied
from saei.studies.statistics.votes import calibration_error, confidence, majority_at

PASS_AT = (4, 16, 64)
"""The k of pass@k that are reported, where there are 2k responses."""

MAJORITY_AT = 16
"""Votes of maj@k."""


@dataclass(frozen=True, slots=True)
class EntropySum:
    """Token entropies that are added up: ``total`` in nats, over so many ``tokens``."""

    total: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """What all responses to one problem amount to.

    Attributes:
        index: The problem's number in the split ``eval``.
        responses: How many there are.
        right: How many are right.
        votes: How often each final answer was given, and whether it is right; none at all is an answer, too.
        solutions: How often each distinct right solution was given.
        reward: Sum of the rewards.
        truncated: How many responses were ended by the length limit.
        entropy: Of all tokens.
        content: Of those that say what was seen or concluded; None where the tokenizer does not tell.

    Example:
        Four responses to "red + blue", whose answer is 5: ``ProblemResult(index=1048576, responses=4, right=3,
        votes=((3, True), (1, False)), solutions=(3,), reward=3.1, truncated=0, entropy=EntropySum(21.5, 104),
        content=EntropySum(2.5, 18))``
    """

    index: int
    responses: int
    right: int
    votes: tuple[tuple[int, bool], ...]
    solutions: tuple[int, ...]
    reward: float
    truncated: int
    entropy: EntropySum
    content: EntropySum | None


def content_ids(tokenizer: Any) -> frozenset[int] | None:
    """Return the tokens that say what was seen or concluded, None if the tokenizer has no token for each word.

    Those of the built-in models do; of others nobody has said which tokens are phrasing.
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    if " 99" not in vocabulary:  # a space stands for itself in no other tokenizer's tokens
        return None
    moves = (f"{space}{move}" for move in MOVES for space in ("", " "))
    return frozenset(vocabulary[word] for word in (*content_words(), *moves) if word in vocabulary)


def problem_result(answers: AnswerSet, task: Task, content: Collection[int] | None) -> ProblemResult:
    """Return what the responses to one problem amount to.

    Args:
        answers: The responses, with grades and entropies.
        task: Says which right answers are the same solution.
        content: See ``content_ids``.
    """
    example, responses, grades = answers.view.example, answers.responses, answers.grades
    votes = Counter((grade.answer, grade.correct) for grade in grades)
    solutions = Counter(task.solution(example, grade.answer or "") for grade in grades if grade.correct)
    entropies_N = torch.cat([response.entropy_T for response in responses]).double()
    ids = [token for response in responses for token in response.ids_T.tolist()]
    of_content = None
    if content is not None:
        chosen_N = torch.tensor([token in content for token in ids], device=entropies_N.device)
        of_content = EntropySum(float(entropies_N[chosen_N].sum()), int(chosen_N.sum()))
    return ProblemResult(
        index=answers.view.index,
        responses=len(responses),
        right=sum(grade.correct for grade in grades),
        votes=tuple((count, right) for (_, right), count in votes.items()),
        solutions=tuple(solutions.values()),
        reward=math.fsum(grade.reward for grade in grades),
        truncated=sum(response.truncated for response in responses),
        entropy=EntropySum(float(entropies_N.sum()), len(ids)),
        content=of_content,
    )


def measures(problems: Sequence[ProblemResult]) -> dict[str, float]:
    """Return the measures of a policy by name; those that take more responses than there are are left out.

    Args:
        problems: At least one, all with as many responses.
    """
    n = problems[0].responses
    ks = [k for k in PASS_AT if 2 * k <= n]
    total = n * len(problems)
    accuracy = sum(problem.right for problem in problems) / total
    values = {"accuracy": accuracy}
    values |= {f"pass@{k}": mean([pass_at(k, n, problem.right) for problem in problems]) for k in ks}
    if n >= 2 * MAJORITY_AT:
        values[f"maj@{MAJORITY_AT}"] = mean(
            [majority_at(MAJORITY_AT, *zip(*problem.votes, strict=True)) for problem in problems]
        )
    values |= {
        "calibration": calibration_error([confidence(*zip(*problem.votes, strict=True)) for problem in problems]),
        "length": sum(problem.entropy.tokens for problem in problems) / total,
        "truncated": sum(problem.truncated for problem in problems) / total,
        "distinct": mean([distinct(problem) for problem in problems]),
        "entropy": _mean_entropy([problem.entropy for problem in problems]),
        "reward_gap": math.fsum(problem.reward for problem in problems) / total - accuracy,
    }
    content = [problem.content for problem in problems if problem.content is not None]
    if content:
        values["entropy/content"] = _mean_entropy(content)
    return {f"final/{name}": value for name, value in values.items()}


def distinct(problem: ProblemResult) -> float:
    """Return how many distinct right solutions half of the responses to a problem contain; see ``rarefied``."""
    return rarefied(problem.solutions, max(1, problem.responses // 2), problem.responses)


def against_base(trained: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """Return a policy's measures against its base's, and the base's own under names that begin with ``base/``.

    Args:
        trained: Measures of the trained policy by name, with its ``problems``.
        base: Those of its base, of as many responses to the same problems.
    """
    solved = gained_and_lost(base["problems"]["right"], trained["problems"]["right"])
    examples = len(base["problems"]["right"])
    values = {"gained": solved.gained / examples, "lost": solved.lost / examples}
    compared = ("accuracy", *(f"pass@{k}" for k in PASS_AT), "distinct")
    values |= {
        f"change/{name}": trained[f"final/{name}"] - base[f"final/{name}"]
        for name in compared
        if f"final/{name}" in base
    }
    of_base = {name.replace("final/", "base/", 1): value for name, value in base.items() if name != "problems"}
    return {**{f"final/{name}": value for name, value in values.items()}, **of_base}


def by_problem(problems: Sequence[ProblemResult]) -> dict[str, list[int]]:
    """Return what is kept of each problem: its number, responses, right ones, and distinct solutions among these."""
    return {
        "index": [problem.index for problem in problems],
        "responses": [problem.responses for problem in problems],
        "right": [problem.right for problem in problems],
        "distinct": [len(problem.solutions) for problem in problems],
    }


def _mean_entropy(sums: Sequence[EntropySum]) -> float:
    tokens = sum(each.tokens for each in sums)
    return math.fsum(each.total for each in sums) / tokens if tokens else math.nan
