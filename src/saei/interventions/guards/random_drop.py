"""The control of guards: as much is dropped, at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from saei.config.registry import OptionalGuardField
from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions.base import Guard
from saei.interventions.context import StepContext, Supply
from saei.interventions.guards.origins import drops_of, intervened_origins, origins_of
from saei.need import Need
from saei.types import Drops, ScoredGroup


@dataclass(frozen=True, slots=True)
class _Lot:
    """A group's place in a step's random order.

    Attributes:
        number: Drawn uniformly from [0, 1) from the group's own source.
        index: The group's.
        origins: Of its responses.
        lost: Those that the other guard drops.
    """

    number: float
    index: int
    origins: tuple[str, ...]
    lost: tuple[str, ...]


class RandomDrop(Guard):
    """Drops an origin's responses of randomly chosen groups: what is left of a guard's effect if it does not choose.

    With ``like``, in every step as many groups lose an origin as that guard would have lose it, over all processes.
    Otherwise each intervened origin of each group is dropped with the probability ``share``. Source: original.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            share: Probability that an origin of a group is dropped.
            like: The guard whose number of drops is matched, in place of ``share``.
        """

        type: Literal["random-drop"] = "random-drop"
        share: float = Field(default=0.5, gt=0.0, le=1.0)
        like: OptionalGuardField = None

        @model_validator(mode="after")
        def _is_one_of_both(self) -> Self:
            if self.like is not None and self.share != type(self).model_fields["share"].default:
                raise ValueError(
                    "How much is dropped comes from the guard `like`, and share would have no effect. Set one of both."
                )
            if self.like is not None and self.like.type == "none":
                raise ValueError("The guard `none` drops nothing to be matched. Name another, or set share.")
            return self

    config: Config
    reasons: ClassVar[tuple[str, ...]] = ("random",)

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.like: Guard | None = self.config.like.build() if self.config.like is not None else None

    @property
    def needs(self) -> frozenset[Need]:
        """What the other guard needs."""
        return self.like.needs if self.like is not None else frozenset()

    def parts(self) -> Mapping[str, Strategy]:
        """Return the other guard, which may have a state."""
        return {"like": self.like} if self.like is not None else {}

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Drop origins at random."""
        if self.like is None:
            chosen = [self._by_share(each, step) for each in scored]
        else:
            others = self.like.drop(scored, step, supply)
            chosen = self._as_many(scored, others, step, supply)
        return [drops_of(each, origins, "random") for each, origins in zip(scored, chosen, strict=True)]

    def _by_share(self, scored: ScoredGroup, step: StepContext) -> list[str]:
        return [origin for origin in sorted(intervened_origins(scored)) if _draw(scored, step) < self.config.share]

    def _as_many(
        self, scored: Sequence[ScoredGroup], others: Sequence[Drops], step: StepContext, supply: Supply
    ) -> list[list[str]]:
        """Return for each group the origins that it loses, which other groups lose by the other guard.

        The order of all groups of the step is one and the same for every origin. So where the other guard takes all
        origins of a group, or clean and intervened responses together, this one does, too.
        """
        lots = []
        for each, drops in zip(scored, others, strict=True):
            numbers_of = origins_of(each)
            lost = tuple(origin for origin, numbers in numbers_of.items() if drops.keys() >= set(numbers))
            lots.append(_Lot(_draw(each, step), each.group.index, tuple(numbers_of), lost))
        of_all = [lot for of_process in supply.gather(lots) for lot in of_process]
        in_order = sorted(of_all, key=lambda lot: (lot.number, lot.index))
        losers: dict[str, set[int]] = {}
        for origin in {origin for lot in in_order for origin in lot.lost}:
            count = sum(origin in lot.lost for lot in in_order)
            losers[origin] = {lot.index for lot in [lot for lot in in_order if origin in lot.origins][:count]}
        return [[origin for origin, indices in losers.items() if each.group.index in indices] for each in scored]


def _draw(scored: ScoredGroup, step: StepContext) -> float:
    """Draw a number from a group's own source of randomness."""
    return float(torch.rand((), generator=step.generator_of(scored.group.views[0]), dtype=torch.float64))
