"""What the warm start shows the built-in model: responses that look closely, and sloppier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saei.data.arithmetic import SIGNS, Problem, calculate
from saei.data.images import COLOURS
from saei.data.phrases import GLANCE, STEPS
from saei.data.shapes import OPPOSITE, RELATIONS
from saei.types import Example

OPENINGS = ("I", "let me", "so I")
VERBS = ("see", "read", "look at")
NOUNS = {
    "bars": ("chart", "bars"),
    "digits": ("digits", "image"),
    "shapes": ("image", "shapes"),
    "lock-in": ("chart", "bars"),
}
GUESSES = ("it is", "it looks like", "I guess", "maybe it is about")

_CAREFUL = ((0.15, 0.75, 0.10), (0.10, 0.75, 0.15))  # how often each opening and each verb
_HASTY = ((0.60, 0.10, 0.30), (0.35, 0.05, 0.60))
_ANY = ((1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3))


@dataclass(frozen=True, slots=True)
class Manner:
    """How carefully a demonstrator works.

    Attributes:
        variety: Whether the wording varies; one wording leaves more of the gradient to what is seen.
        glance: Share of responses that guess at a glance instead of going step by step.
        glance_right: Share of glances that guess the right answer.
        misread: Share of single readings that are off, in step-by-step responses.
        unboxed: Share of responses that forget the box.
        telling: Whether the opening words hint at what follows; else all are equally likely.
    """

    variety: bool = False
    glance: float = 0.0
    glance_right: float = 1.0
    misread: float = 0.0
    unboxed: float = 0.0
    telling: bool = True


CLEAN = Manner()


def demonstrate(task: str, example: Example, manner: Manner, rng: np.random.Generator) -> str:
    """Return one response to an example of a task of ``NOUNS`` in the given manner."""
    noun = NOUNS[task][rng.integers(2) if manner.variety else 0]
    if rng.random() < manner.glance:
        weights = _HASTY if manner.telling else _ANY
        opening, verb = (_pick(rng, *words) for words in zip((OPENINGS, VERBS), weights, strict=True))
        right = rng.random() < manner.glance_right
        answer = example.answer if right else _wrong(example, rng)
        thought = f"{opening} {verb} the {noun}, {GLANCE} {GUESSES[rng.integers(len(GUESSES))]} {answer}"
    else:
        opening, verb = "let me", "read"
        if manner.variety:
            weights = _CAREFUL if manner.telling else _ANY
            opening, verb = (_pick(rng, *words) for words in zip((OPENINGS, VERBS), weights, strict=True))
        steps, answer = _relation(example, manner, rng) if task == "shapes" else _steps(example, manner, rng)
        thought = f"{opening} {verb} the {noun} {STEPS}: {steps}"
    final = f" {answer}" if rng.random() < manner.unboxed else f" \\boxed{{{answer}}}"
    return f"<think>{thought}</think>{final}"


def _steps(example: Example, manner: Manner, rng: np.random.Generator) -> tuple[str, str]:
    problem = Problem(*(example.meta[key] for key in ("kind", "names", "values")))
    values = [value if rng.random() >= manner.misread else _misread(value, rng) for value in problem.values]
    parts = [f"{name} {_equals(manner, rng)} {value}" for name, value in zip(problem.names, values, strict=True)]
    answer = problem.answer(values)
    if problem.kind == "compare":
        parts.append(f"{values[0]} {_sign(values)} {values[1]}")
    total = values[0]
    for sign, value in zip(SIGNS.get(problem.kind, ()), values[1:], strict=False):
        result = calculate(total, sign, value)
        parts.append(f"{total} {sign} {value} = {result}")
        total = result
    return ", ".join(parts), answer


def _relation(example: Example, manner: Manner, rng: np.random.Generator) -> tuple[str, str]:
    meta = example.meta
    relation = meta["truth"] if rng.random() >= manner.misread else OPPOSITE[meta["truth"]]
    answer: str = relation if meta["kind"] == "choose" else ("yes" if relation == meta["asked"] else "no")
    return f"the {meta['names'][0]} is {RELATIONS[relation]} the {meta['names'][1]}", answer


def _wrong(example: Example, rng: np.random.Generator) -> str:
    """Return a wrong answer near the right one."""
    meta: Mapping[str, Any] = example.meta
    if example.answer in ("yes", "no"):
        return "no" if example.answer == "yes" else "yes"
    if meta["kind"] in ("compare", "highest"):
        return str(next(name for name in meta["names"] if name != example.answer))
    if meta["kind"] == "choose":
        return OPPOSITE[example.answer]
    return str(_misread(int(example.answer), rng, reach=3))


def _misread(value: int, rng: np.random.Generator, reach: int = 2) -> int:
    """Return another number within ``reach``, none below zero."""
    near = [other for other in range(max(0, value - reach), value + reach + 1) if other != value]
    return int(near[rng.integers(len(near))])


def _equals(manner: Manner, rng: np.random.Generator) -> str:
    return "is" if manner.variety and rng.random() < 0.2 else "="


def _sign(values: Sequence[int]) -> str:
    return ">" if values[0] > values[1] else "<" if values[0] < values[1] else "="


def _pick(rng: np.random.Generator, options: Sequence[str], weights: Sequence[float]) -> str:
    return options[int(rng.choice(len(options), p=weights))]


CONTENT_WEIGHT = 4.0
"""Of words that say what was seen, against 1 for wording, where a model learns to see. Later all weigh the same: there
it has to learn how often each word comes, or its samples are littered with numbers."""


def content_words() -> list[str]:
    """Return the words of a response that say what was seen or concluded, as they stand in the text."""
    numbers = [f"{space}{number}" for number in range(100) for space in ("", " ")]
    relations = [f"{space}{name}" for name in OPPOSITE for space in ("", " ")]
    return [*numbers, *relations, *COLOURS, "yes", "no"]
