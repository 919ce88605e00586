"""A selector that is a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from saei.config.function import strategy_of
from saei.entropy.selectors.base import Selector, TokenStats, wrong_form
from saei.need import Need

Select: TypeAlias = Callable[[TokenStats, Tensor], Tensor]
"""From a group's statistics and its candidates ``[N, T]`` to a bool mask ``[N, T]``."""


def selector(name: str, needs: Iterable[Need] = ()) -> Callable[[Select], type[Selector]]:
    """Make a selector of a function without state, randomness and fields of its own.

    What it selects is cut to the candidates, so that ``exclude`` works as everywhere. Put ``@register`` above it, or
    name it in an entry point.

    Args:
        name: The selector's name.
        needs: What the function reads from ``stats.statistics``.
    """
    declared = frozenset(needs)

    def decorate(function: Select) -> type[Selector]:
        def select(self: Selector, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
            candidates_NT = self.candidates(stats)
            mask_NT = function(stats, candidates_NT)
            # A mask of a wrong form is left as it is, for the error that names the selector.
            return mask_NT if wrong_form(mask_NT, stats) else mask_NT & candidates_NT

        def all_needs(self: Selector) -> frozenset[Need]:
            excluded: frozenset[Need] = Selector.needs.__get__(self)
            return excluded | declared

        return strategy_of(function, Selector, name, select=select, needs=property(all_needs))

    return decorate
