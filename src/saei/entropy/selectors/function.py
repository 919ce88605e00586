"""A selector that is a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from saei.config.function import strategy_of
from saei.entropy.selectors.base import Selector, TokenStats

Select: TypeAlias = Callable[[TokenStats, Tensor], Tensor]
"""From a group's statistics and its candidates ``[N, T]`` to a bool mask ``[N, T]``."""


def selector(name: str) -> Callable[[Select], type[Selector]]:
    """Make a selector of a function without state, randomness and fields of its own.

    What it selects is cut to the candidates, so that ``exclude`` works as everywhere. Put ``@register`` above it, or
    name it in an entry point.

    Args:
        name: The selector's name.
    """

    def decorate(function: Select) -> type[Selector]:
        def select(self: Selector, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
            candidates_NT = self.candidates(stats)
            return function(stats, candidates_NT) & candidates_NT

        return strategy_of(function, Selector, name, select=select)

    return decorate
