"""Gates: which groups are attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from saei.config.registry import SelectorField
from saei.config.strategy import StrategyConfig
from saei.entropy.selectors.base import Selector
from saei.interventions.base import Gate
from saei.interventions.context import StepContext, Supply
from saei.interventions.group_criterion import TokenChooser
from saei.need import Need
from saei.types import Response, View


class Always(Gate):
    """Attack every group, as the paper does."""

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["always"] = "always"

    config: Config
    needs_supply: ClassVar[bool] = False

    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        """Leave none alone."""
        return [None] * len(views)


class ZeroVariance(Gate):
    """Attack only groups whose clean responses are all right or all wrong: they teach nothing as they are.

    Counted on accuracy, not on the reward, whose format part would hide it; under a graded reward, on that. Source:
    original.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["zero-variance"] = "zero-variance"

    config: Config
    reasons: ClassVar[tuple[str, ...]] = ("varies",)

    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        """Leave those alone whose grades vary: ``varies``."""
        assert supply is not None
        grades = map(supply.grade, views, responses)
        return ["varies" if supply.varies(group_grades) else None for group_grades in grades]


class EntropyFloor(Gate):
    """Attack only groups whose clean responses have little entropy left; an unsure policy explores by itself.

    A group's entropy is the mean over the chosen tokens of its clean responses, all responses pooled, as they were
    sampled. The thought is that of bonuses which act below a target (Skywork-OR1, arXiv 2505.22312). Source: original.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            floor: Groups with a mean entropy below it are attacked, in nats; the default is ours.
            selector: The tokens that the mean is over.
        """

        type: Literal["entropy-floor"] = "entropy-floor"
        floor: float = Field(default=0.2, gt=0.0, le=100.0)
        selector: SelectorField = "all"  # type: ignore[assignment]  # names are resolved by the validator

    config: Config
    needs_supply: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = ("above-floor",)

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self._selector: Selector = self.config.selector.build()

    @property
    def needs(self) -> frozenset[Need]:
        """What the selector needs."""
        return self._selector.needs

    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        """Leave those alone whose entropy reaches the floor: ``above-floor``."""
        entropies = [self._entropy(view, drawn, step) for view, drawn in zip(views, responses, strict=True)]
        return ["above-floor" if entropy >= self.config.floor else None for entropy in entropies]

    def _entropy(self, view: View, responses: Sequence[Response], step: StepContext) -> float:
        """Return the mean entropy of the chosen tokens in nats, 0 without any."""
        selection = TokenChooser(self._selector, step).by_sampling(view, [each for each in responses if len(each)])
        chosen = selection.stats.entropy_NT[selection.selected_NT]
        return float(chosen.sum()) / max(1, len(chosen))


class _SameGrade(Gate):
    """Attacks only groups of whose clean responses all are right, or none is; counted on ``Grade.correct``."""

    attacked: ClassVar[str]
    """``all-right`` or ``all-wrong``: the groups that are attacked."""

    def leave_alone(
        self,
        views: Sequence[View],
        responses: Sequence[Sequence[Response]],
        step: StepContext,
        supply: Supply | None,
    ) -> list[str | None]:
        """Leave all others alone, for what they are: ``varies``, ``all-right`` or ``all-wrong``."""
        assert supply is not None
        reasons = []
        for grades in map(supply.grade, views, responses):
            right = [grade.correct for grade in grades]
            outcome = "all-right" if all(right) else "varies" if any(right) else "all-wrong"
            reasons.append(None if outcome == self.attacked else outcome)
        return reasons


class AllWrong(_SameGrade):
    """Attack only groups of whose clean responses none is right: where something else has to be tried.

    Counted on accuracy, also under a graded reward. Source: original.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["all-wrong"] = "all-wrong"

    config: Config
    attacked: ClassVar[str] = "all-wrong"
    reasons: ClassVar[tuple[str, ...]] = ("varies", "all-right")


class AllRight(_SameGrade):
    """Attack only groups whose clean responses are all right: where a group teaches nothing and little can be lost.

    Counted on accuracy, also under a graded reward. Source: original.
    """

    class Config(StrategyConfig):
        """No fields."""

        type: Literal["all-right"] = "all-right"

    config: Config
    attacked: ClassVar[str] = "all-right"
    reasons: ClassVar[tuple[str, ...]] = ("varies", "all-wrong")
