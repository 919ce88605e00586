"""The weight that leaves out all tokens except those that a selector chooses."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from saei.config.registry import SelectorField
from saei.entropy.selectors.base import Selector, TokenStats, checked_selection
from saei.need import Need
from saei.objectives.batch import UpdateBatch
from saei.objectives.weights.base import Weight


class Selected(Weight):
    """1 on the tokens that a selector chooses by the entropies of the sampling pass, 0 on the others.

    ``objective.token_selector`` is this weight with its defaults. Forced tokens are never chosen.

    Source: https://arxiv.org/abs/2506.01939 trains on the fifth of all tokens that has the highest entropies, which
    ``{type: top-k, share: 1/5}`` takes of each response; other selectors are original here.
    """

    per_group: ClassVar[bool] = True

    class Config(Weight.Config):
        """Fields.

        Attributes:
            selector: Which tokens of a group's responses count.
            count_zeroed: Whether the tokens that are not chosen count in the mean.
        """

        type: Literal["selected"] = "selected"
        selector: SelectorField = "middle-third"  # type: ignore[assignment]  # names are resolved by the validator
        count_zeroed: bool = False

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.selector: Selector = self.config.selector.build()

    def parts(self) -> dict[str, Selector]:
        """Return the selector."""
        return {"selector": self.selector}

    @property
    def needs(self) -> frozenset[Need]:
        """What the selector needs."""
        return self.selector.needs

    def weigh(self, batch: UpdateBatch, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return 1 on selected tokens."""
        stats = TokenStats(
            entropy_NT=batch.behaviour_entropy_RT,
            logp_NT=batch.behaviour_logp_RT,
            ids_NT=batch.ids_RT,
            valid_NT=batch.mask_RT & batch.drawn_RT,
            statistics=batch.statistics,
        )
        return checked_selection(self.selector, stats, progress=progress, generator=generator).float()
