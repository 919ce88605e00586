"""A criterion that is a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import Tensor

from saei.config.function import strategy_of
from saei.interventions.base import Criterion
from saei.need import Need
from saei.policy import Scores

PerToken: TypeAlias = Callable[[Scores], Tensor]
"""From scores to differentiable values ``[N, T]``."""


def criterion(name: str, needs: Iterable[Need] = ()) -> Callable[[PerToken], type[Criterion]]:
    """Make a criterion of a function without state and fields.

    Put ``@register`` above it, or name it in an entry point.

    Args:
        name: The criterion's name.
        needs: What the function reads from ``scores.statistics``.
    """
    declared = frozenset(needs)

    def decorate(function: PerToken) -> type[Criterion]:
        def per_token(self: Criterion, scores: Scores) -> Tensor:
            return function(scores)

        return strategy_of(function, Criterion, name, per_token=per_token, needs=property(lambda self: declared))

    return decorate
