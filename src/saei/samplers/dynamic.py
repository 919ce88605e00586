"""Sampling until enough groups teach something: DAPO's dynamic sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.registry import SamplerField
from saei.config.strategy import Strategy, StrategyConfig
from saei.interventions import InterventionConfig
from saei.policy import Policy
from saei.samplers.base import Sampler, SamplingContext
from saei.types import Group, ScoredGroup, View


class Dynamic(Sampler):
    """Another sampler whose groups without variance are replaced by groups of further examples (arXiv 2503.14476).

    A group has no variance if its responses are all right or all wrong. DAPO counts it so, on accuracy; a format
    reward would hide it. Under a graded reward it has none if all rewards are equal. Such groups are drawn and graded
    but not trained on, and their responses count as sampled. Each round draws as many further examples as are still
    missing. After the last round the step trains on the groups that there are, fewer than
    ``training.prompts_per_step`` or none, where verl's recipe for DAPO stops the run.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            of: The sampler that draws; an intervention stands at ``sampler.of.intervention``.
            max_rounds: Rounds of drawing in a step, the first included.
        """

        type: Literal["dynamic"] = "dynamic"
        of: SamplerField = "clean"  # type: ignore[assignment]  # names are resolved by the validator
        max_rounds: int = Field(default=10, ge=1, le=1000)

        @model_validator(mode="after")
        def _draws_with_another_kind(self) -> Self:
            if isinstance(self.of, Dynamic.Config):
                raise ValueError(
                    "dynamic draws with a sampler of another kind: the rounds of one within another would multiply. "
                    "Set sampler.of to the innermost sampler."
                )
            return self

        @property
        def intervention(self) -> InterventionConfig | None:
            """The other sampler's intervention, None if it has none."""
            return getattr(self.of, "intervention", None)

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.of: Sampler = self.config.of.build()

    @property
    def group_size(self) -> int:
        """The other sampler's."""
        return self.of.group_size

    def draw(self, views: Sequence[View], ctx: SamplingContext) -> list[Group]:
        """Return all groups that were drawn, also those that ``guard`` will drop."""
        groups = self.of.draw(views, ctx)
        missing = ctx.total(len(views) - self._varying(groups, ctx))
        for _ in range(self.config.max_rounds - 1):
            further = ctx.more(missing) if missing else ()
            if not ctx.total(len(further)):
                break
            drawn = self.of.draw(further, ctx) if further else []
            missing -= ctx.total(self._varying(drawn, ctx))
            groups += drawn
        return groups

    def _varying(self, groups: Sequence[Group], ctx: SamplingContext) -> int:
        with ctx.phase("reward"):
            return sum(ctx.varies(ctx.grade(group.views[0], group.responses)) for group in groups)

    def check(self, policy: Policy, view: View) -> None:
        """Ask the other sampler."""
        self.of.check(policy, view)

    def guard(self, scored: ScoredGroup, ctx: SamplingContext) -> ScoredGroup | None:
        """Drop a group without variance; ask the other sampler about the rest."""
        return self.of.guard(scored, ctx) if ctx.varies(scored.grades) else None

    def parts(self) -> Mapping[str, Strategy]:
        """Return the other sampler."""
        return {"of": self.of}


def drawing(sampler: StrategyConfig) -> tuple[str, StrategyConfig]:
    """Return the sampler that draws, inside those that wrap another, and its path in a run's configuration."""
    path = "sampler"
    while isinstance(sampler, Dynamic.Config):
        path, sampler = f"{path}.of", sampler.of
    return path, sampler
