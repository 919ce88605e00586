"""What guessing reaches: pass@k without solving anything, below which a policy's pass@k says nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from saei.data.base import Split, Task
from saei.evaluation.statistics.pass_at import pass_at
from saei.rewards.graders.grading import grade_answers
from saei.types import Example

KS = (1, 4, 16, 64)
DRAWS_PER_K = 2  # of each of the task's guessers, for the largest k
BLIND, ANY_KNOWN = "blind", "any known answer"


@dataclass(frozen=True, slots=True)
class Floor:
    """How far one way of guessing gets, a mean over examples.

    Attributes:
        guesser: ``blind`` draws the answers of training examples of the same kind, as often as they occur there;
            ``any known answer`` draws each of them equally often. Others are the task's own.
        pass_at: By k, the probability that one of k independent guesses is right.
    """

    guesser: str
    pass_at: Mapping[int, float]


def guess_floors(
    task: Task,
    *,
    ks: Sequence[int] = KS,
    examples: int = 128,
    training: int = 512,
    split: Split = "eval",
    seed: int = 0,
) -> list[Floor]:
    """Return the floors of a task.

    Those of known answers are exact: an answer is right with a probability that is counted, not drawn. A task without
    training examples has none. Guesses are graded as they are, whatever form a reward asks for.

    Args:
        task: The task.
        ks: The numbers of guesses.
        examples: Examples that are guessed at, at most.
        training: Training examples whose answers are known, at most.
        split: Of the examples that are guessed at.
        seed: Of the task's guessers.

    Raises:
        DataError: If an example cannot be used.
    """
    asked = [task.example(index, split) for index in range(_count(task, split, examples))]
    known: dict[object, Counter[str]] = defaultdict(Counter)
    for index in range(_count(task, "train", training)):
        example = task.example(index)
        known[_kind(example)][example.answer] += 1
    floors = []
    if known:
        frequent = [known[_kind(example)] for example in asked]
        equal = [Counter(dict.fromkeys(answers, 1)) for answers in frequent]
        floors = [Floor(BLIND, _exact(asked, frequent, ks)), Floor(ANY_KNOWN, _exact(asked, equal, ks))]
    return [*floors, *_sampled(task, asked, ks, seed)]


def _count(task: Task, split: Split, most: int) -> int:
    if split not in task.splits():
        return 0
    size = task.size(split)
    return most if size is None else min(most, size)


def _kind(example: Example) -> object:
    """Return what tells a question from others without the picture: its kind, which need not be given."""
    return str(example.meta.get("kind", ""))


def _exact(asked: Sequence[Example], known: Sequence[Counter[str]], ks: Sequence[int]) -> dict[int, float]:
    """Return pass@k of drawing from known answers with replacement."""
    shares = []
    for right, answers in zip(_right_answers(asked, known), known, strict=True):
        shares.append(sum(answers[answer] for answer in right) / max(1, answers.total()))
    return {k: fmean(1 - (1 - share) ** k for share in shares) for k in ks}


def _sampled(task: Task, asked: Sequence[Example], ks: Sequence[int], seed: int) -> list[Floor]:
    """Return pass@k of the task's own guessers, estimated from independent draws."""
    draws = DRAWS_PER_K * max(ks)
    guesses: dict[str, list[Counter[str]]] = defaultdict(list)
    for number, example in enumerate(asked):
        rng = np.random.default_rng([seed, number])
        drawn = [task.guesses(example, rng) for _ in range(draws)]
        for guesser in drawn[0]:
            guesses[guesser].append(Counter(each[guesser] for each in drawn))
    floors = []
    for guesser, answers in guesses.items():
        both = zip(_right_answers(asked, answers), answers, strict=True)
        counts = [sum(drawn_counts[answer] for answer in right) for right, drawn_counts in both]
        floors.append(Floor(guesser, {k: fmean(pass_at(k, draws, count) for count in counts) for k in ks}))
    return floors


def _right_answers(asked: Sequence[Example], answers: Sequence[Counter[str]]) -> list[list[str]]:
    """Return which of the answers to each example are right; equal ones are graded once."""
    pairs = [(example, answer) for example, row in zip(asked, answers, strict=True) for answer in row]
    verdicts = iter(grade_answers(pairs))
    return [[answer for answer in row if next(verdicts).correct] for row in answers]
