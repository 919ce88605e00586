"""Sampling until enough groups teach something: DAPO's dynamic sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from saei.config.registry import SamplerField
from saei.config.strategy import Strategy, StrategyConfig
from saei.errors import ConfigError
from saei.policy import Policy
from saei.samplers.base import Sampler, SamplingPlan, StepContext, Supply, checked_drops
from saei.types import Drops, Example, Group, ScoredGroup, View


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

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.of: Sampler = self.config.of.build()
        self._check_control()

    def _check_control(self) -> None:
        """Refuse a control that takes other groups of the same draw: later rounds draw few, or one.

        Raises:
            ConfigError: If there is one.
        """
        if any(arm.needs_others for arm in self.of.plan().arms):
            raise ConfigError(
                "A control that takes the change of another group needs all groups of a step at once.",
                reason="`dynamic` draws in rounds, and the control would leave alone what a round draws alone.",
                remedy="Use another control, or another sampler.",
            )

    def plan(self) -> SamplingPlan:
        """Return the other sampler's, in several rounds."""
        plan = self.of.plan().below("of")
        needs = (("", self.name()), *plan.needs_supply)
        rounds = self.config.max_rounds * plan.rounds
        return replace(plan, needs_supply=needs, rounds=rounds, dropped=("no-variance", *plan.dropped))

    def draw(self, views: Sequence[View], step: StepContext, supply: Supply | None) -> list[Group]:
        """Return all groups that were drawn, also those that ``guard`` will drop."""
        assert supply is not None
        groups = self.of.draw(views, step, supply)
        missing = supply.total(len(views) - self._varying(groups, step, supply))
        for _ in range(self.config.max_rounds - 1):
            further = supply.more(missing) if missing else ()
            if not supply.total(len(further)):
                break
            drawn = self.of.draw(further, step, supply)  # even if there are none here: its totals need every process
            missing -= supply.total(self._varying(drawn, step, supply))
            groups += drawn
        return groups

    def _varying(self, groups: Sequence[Group], step: StepContext, supply: Supply) -> int:
        with step.phase("reward"):
            return sum(supply.varies(supply.grade_group(group)) for group in groups)

    def check(self, policy: Policy, views: Sequence[View]) -> None:
        """Ask the other sampler."""
        self.of.check(policy, views)

    def lacks(self, view: View) -> str | None:
        """Ask the other sampler."""
        return self.of.lacks(view)

    def example_lacks(self, example: Example) -> str | None:
        """Ask the other sampler."""
        return self.of.example_lacks(example)

    def guard(self, scored: Sequence[ScoredGroup], step: StepContext, supply: Supply) -> list[Drops]:
        """Drop groups without variance, and of the rest what the other sampler's guard drops, which sees all groups."""
        others = checked_drops(self.of, scored, self.of.guard(scored, step, supply))
        return [
            drops if supply.varies(group.grades) else group.all_dropped("no-variance")
            for group, drops in zip(scored, others, strict=True)
        ]

    def parts(self) -> Mapping[str, Strategy]:
        """Return the other sampler."""
        return {"of": self.of}
