"""What a step gives to samplers, interventions, gates and guards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from saei.policy import Policy
from saei.types import Grade, Response, View


def _untimed(name: str) -> AbstractContextManager[Any]:
    return nullcontext()


def _no_more(n: int) -> Sequence[View]:
    return ()


@dataclass(frozen=True, eq=False, slots=True)
class SamplingContext:
    """The policy and the circumstances of one step.

    Attributes:
        policy: The current policy.
        grade: Grades a view's responses; no response of a step is graded twice.
        progress: Share of the training done, in [0, 1].
        generator: Source of all randomness, on the CPU.
        phase: ``with ctx.phase("attack"):`` accounts the time spent inside.
        more: ``ctx.more(n)`` moves on in the examples and returns up to n further clean views.
    """

    policy: Policy
    grade: Callable[[View, Sequence[Response]], Sequence[Grade]]
    progress: float
    generator: torch.Generator
    phase: Callable[[str], AbstractContextManager[Any]] = field(default=_untimed)
    more: Callable[[int], Sequence[View]] = field(default=_no_more)
