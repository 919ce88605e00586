"""The guard against views that are too far from the clean one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from saei.config.strategy import StrategyConfig
from saei.interventions.base import Guard
from saei.interventions.context import StepContext, Supply
from saei.interventions.guards.origins import drops_of
from saei.need import Need
from saei.types import CLEAN, Drops, Response, ScoredGroup, View

FROM_CLEAN = Need("kl", view="clean")


class ViewKL(Guard):
    """Drops an origin's responses of a group where the policy answers its view too differently from the clean one.

    The measure is ``KL(moved‖clean)`` over the whole vocabulary, a mean over all tokens of the origin's responses in
    the group; several views of an origin count together. It costs two scoring passes of them. Source: original.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            limit: Largest divergence, in nats per token; the default is ours.
        """

        type: Literal["view-kl"] = "view-kl"
        limit: float = Field(default=0.1, ge=0.0, le=1000.0)

    config: Config
    reasons: ClassVar[tuple[str, ...]] = ("view-kl",)

    @property
    def needs(self) -> frozenset[Need]:
        """The divergence from the clean view."""
        return frozenset({FROM_CLEAN})

    def drop(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Drop the origins whose divergence is above the limit."""
        divergences = self.divergences(scored, step)
        limit = self.config.limit
        return [
            drops_of(each, [origin for origin, kl in by_origin.items() if kl > limit], "view-kl")
            for each, by_origin in zip(scored, divergences, strict=True)
        ]

    def divergences(self, scored: Sequence[ScoredGroup], step: StepContext) -> list[dict[str, float]]:
        """Return for each group its intervened origins' mean divergence, in nats per token."""
        places: list[tuple[int, str]] = []
        views: list[View] = []
        clean: list[View] = []
        responses: list[list[Response]] = []
        for number, group in enumerate(each.group for each in scored):
            for place, view in enumerate(group.views):
                drawn = [n for n, source in enumerate(group.sampled_from) if source == place]
                if view.origin != CLEAN and any(len(group.responses[n]) for n in drawn):
                    places.append((number, view.origin))
                    views.append(view)
                    clean.append(group.views[0])
                    responses.append([group.responses[n] for n in drawn])
        sums: list[dict[str, float]] = [defaultdict(float) for _ in scored]
        tokens: list[dict[str, int]] = [defaultdict(int) for _ in scored]
        statistics = step.statistics(self.needs, views, responses, clean=clean)
        for (number, origin), drawn_from, known in zip(places, responses, statistics, strict=True):
            sums[number][origin] += float(known[FROM_CLEAN].sum())
            tokens[number][origin] += sum(map(len, drawn_from))
        if views:
            step.policy.forget_states()
        return [
            {origin: total / counts[origin] for origin, total in group_sums.items()}
            for group_sums, counts in zip(sums, tokens, strict=True)
        ]
