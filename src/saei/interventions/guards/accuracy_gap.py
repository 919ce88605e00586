"""The guard against an intervention that costs too much accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Guard
from saei.interventions.context import StepContext, Supply
from saei.interventions.guards.origins import drops_of, intervened_origins, origins_of
from saei.types import CLEAN, Drops, ScoredGroup


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of an origin and of the clean view, over the same groups.

    Attributes:
        groups: How many these are.
        right: Right responses of the origin.
        responses: All of them.
        clean_right: Right responses of the clean view.
        clean_responses: All of them.
    """

    groups: int = 0
    right: float = 0.0
    responses: float = 0.0
    clean_right: float = 0.0
    clean_responses: float = 0.0

    def plus(self, other: Counts, *, share: float = 1.0) -> Counts:
        """Return these counts of responses, of which a share is left, and others; of groups the sum."""
        groups, *old = astuple(self)
        more, *new = astuple(other)
        return Counts(groups + more, *(share * a + b for a, b in zip(old, new, strict=True)))

    @property
    def gap(self) -> float:
        """The clean view's accuracy less the origin's."""
        return self.clean_right / self.clean_responses - self.right / self.responses


class AccuracyGap(Guard):
    """Drops an origin's responses while its accuracy is too far below the clean view's, by a running estimate.

    The estimate is of all processes and of many groups: each step it forgets, for every new group, the same share of
    what it knew. It is that of the steps before, so that no response is dropped for its own reward. Responses are
    graded while they are dropped, and so an origin that has recovered is trained on again. Source: original.
    """

    class Config(StrategyConfig):
        """Fields; the defaults are ours.

        Attributes:
            limit: Largest gap of the accuracies, as a share of responses; no gap exceeds 1.
            half_life: After so many groups with the origin a group counts half.
            min_groups: An estimate drops nothing before it has seen so many of them.
        """

        type: Literal["accuracy-gap"] = "accuracy-gap"
        limit: float = Field(default=0.2, ge=0.0, lt=1.0)
        half_life: int = Field(default=64, ge=1, le=1_000_000)
        min_groups: int = Field(default=16, ge=1, le=1_000_000)

    config: Config
    reasons: ClassVar[tuple[str, ...]] = ("accuracy-gap",)

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self._counts: dict[str, Counts] = {}

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Drop by the estimate so far, and add the step's groups to it."""
        beyond = [origin for origin, counts in self._counts.items() if self._is_beyond(counts)]
        drops = [drops_of(each, beyond, "accuracy-gap") for each in scored]
        new: dict[str, Counts] = {}
        for of_process in supply.gather(_counted(scored)):
            for origin, counts in of_process.items():
                new[origin] = new.get(origin, Counts()).plus(counts)
        for origin, counts in new.items():
            share = 0.5 ** (counts.groups / self.config.half_life)
            self._counts[origin] = self._counts.get(origin, Counts()).plus(counts, share=share)
        return drops

    def _is_beyond(self, counts: Counts) -> bool:
        return counts.groups >= self.config.min_groups and counts.gap > self.config.limit

    def state_dict(self) -> dict[str, Any]:
        """Return the counts by origin."""
        return {origin: list(astuple(counts)) for origin, counts in self._counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from these counts, which are the same in every process."""
        self._counts = {origin: Counts(*counts) for origin, counts in state.items()}


def _counted(scored: Sequence[ScoredGroup]) -> dict[str, Counts]:
    """Return the counts of this process's groups, by origin; groups without a clean response count nowhere."""
    counts: dict[str, Counts] = {}
    for each in scored:
        clean = origins_of(each).get(CLEAN, [])
        for origin, numbers in intervened_origins(each).items():
            if clean:
                right, clean_right = (sum(each.grades[n].correct for n in own) for own in (numbers, clean))
                group_counts = Counts(1, right, len(numbers), clean_right, len(clean))
                counts[origin] = counts.get(origin, Counts()).plus(group_counts)
    return counts
