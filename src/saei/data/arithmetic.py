"""Questions about named quantities in an image: read one, compare two, add and subtract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ARITY = {
    "read": 1,
    "compare": 2,
    "highest": 4,
    "add": 2,
    "subtract": 2,
    "multiply": 2,
    "add-add": 3,
    "add-subtract": 3,
}
"""How many quantities each kind of question is about."""

SIGNS = {
    "add": ("+",),
    "subtract": ("-",),
    "multiply": ("*",),
    "add-add": ("+", "+"),
    "add-subtract": ("+", "-"),
}
"""The signs between the quantities, for the kinds that calculate."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question of one kind about some of the named quantities.

    Attributes:
        kind: A key of ``ARITY``.
        names: The quantities asked about, in the order of the question.
        values: Their true values.
    """

    kind: str
    names: tuple[str, ...]
    values: tuple[int, ...]

    def meta(self) -> dict[str, Any]:
        """Return the problem as plain values, for ``Example.meta``."""
        return {"kind": self.kind, "names": self.names, "values": self.values}

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Problem:
        """Return the problem of an ``Example.meta``, also of one that was JSON in between."""
        return cls(meta["kind"], tuple(meta["names"]), tuple(meta["values"]))

    @property
    def expression(self) -> str:
        """The calculation in names, such as ``red + blue - green``."""
        signs = SIGNS[self.kind]
        return self.names[0] + "".join(f" {sign} {name}" for sign, name in zip(signs, self.names[1:], strict=True))

    def answer(self, values: Sequence[int]) -> str:
        """Return the answer that follows from (possibly misread) values."""
        if self.kind in ("compare", "highest"):
            return self.names[values.index(max(values))]
        total = values[0]
        for sign, value in zip(SIGNS.get(self.kind, ()), values[1:], strict=True):
            total = calculate(total, sign, value)
        return str(total)


def calculate(left: int, sign: str, right: int) -> int:
    """Return ``left sign right`` for one of ``+ - *``."""
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def draw_problem(rng: np.random.Generator, kinds: Sequence[str], quantities: dict[str, int]) -> Problem:
    """Draw a question with one clear answer: no two equal winners, nothing below zero.

    Args:
        rng: Source of the choice.
        kinds: The kinds to draw from, equally likely; redrawn where the quantities allow no clear question.
        quantities: Value by name.
    """
    names = list(quantities)
    while True:
        kind = kinds[int(rng.integers(len(kinds)))]
        chosen = tuple(names[i] for i in rng.permutation(len(names))[: ARITY[kind]])
        problem = Problem(kind, chosen, tuple(quantities[name] for name in chosen))
        if kind in ("compare", "highest") and problem.values.count(max(problem.values)) > 1:
            continue
        if kind in SIGNS and int(problem.answer(problem.values)) < 0:
            continue
        return problem
