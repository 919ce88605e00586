"""AEnt's bonus: the entropy without the least likely tokens, with a coefficient that keeps it in bounds."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from saei.config.registry import load
from saei.config.strategy import Frac, StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term


class ClampedEntropy(Term):
    """``-coefficient`` times the mean clamped entropy, in nats: that of the vocabulary without its least likely tokens.

    After each training step, with H the step's mean clamped entropy, an adaptive coefficient moves by

        coefficient ← clip(coefficient - rate · (min(0, H - low) + max(0, H - high)), least, most),

    up where H is below its lower bound, down where it is above the upper one. H is a mean over the update's responses
    of the mean over their tokens; the authors' is one over tokens. The first step has the coefficient that is given.

    Metrics: ``mean``, the clamped entropy without its coefficient; ``coefficient``; ``touched``, the share of the
    tokens that get the bonus.

    Source: AEnt (https://arxiv.org/abs/2509.03493). The bounds, the rate and the limits of the coefficient are those of
    the authors' recipe for GSM8K, where the coefficient stays fixed, ``clamp`` is .4, and rewards are ten times as
    large.
    """

    class Config(StrategyConfig):
        """Fields of the clamped bonus.

        Attributes:
            coefficient: Weight of the bonus; where it is adaptive, in the first step.
            clamp: Share of the vocabulary that is left out at each token.
            adaptive: Whether the coefficient follows the clamped entropy.
            low: Clamped entropy in nats below which an adaptive coefficient rises.
            high: The one above which it falls.
            rate: By how much it moves for each nat that is missing or too many.
            least: Its lower limit.
            most: Its upper limit.
            warm_up: Steps at the beginning in which it stays.
        """

        type: Literal["clamped-entropy"] = "clamped-entropy"
        coefficient: float = Field(default=2e-4, ge=0.0, le=1e6)
        clamp: Frac = Field(default=Fraction(3, 10), ge=0, lt=1)
        adaptive: bool = True
        low: float = Field(default=0.05, ge=0.0, le=100.0)
        high: float = Field(default=0.23, ge=0.0, le=100.0)
        rate: float = Field(default=1e-3, gt=0.0, le=1e6)
        least: float = Field(default=1e-5, ge=0.0, le=1e6)
        most: float = Field(default=3e-3, ge=0.0, le=1e6)
        warm_up: int = Field(default=0, ge=0)

        @model_validator(mode="after")
        def _in_order(self) -> Self:
            if self.low > self.high:
                raise ValueError(f"low, {self.low:g}, is above high, {self.high:g}. Put low below it.")
            if self.adaptive and not self.least <= self.coefficient <= self.most:
                raise ValueError(
                    f"An adaptive coefficient moves between least and most: it is {self.coefficient:g}, least "
                    f"{self.least:g}, most {self.most:g}. Put it between them, or set adaptive to false."
                )
            return self

        @model_validator(mode="after")
        def _moves(self) -> Self:
            fields = type(self).model_fields
            for name in ("low", "high", "rate", "least", "most", "warm_up"):
                if not self.adaptive and getattr(self, name) != fields[name].default:
                    raise ValueError(f"{name} is of an adaptive coefficient, and adaptive is false. Leave one out.")
            return self

        @property
        def steers_entropy(self) -> bool:
            """Whether the coefficient follows the entropy."""
            return self.adaptive

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.coefficient = self.config.coefficient
        self._steps = 0

    @cached_property
    def entropy(self) -> Need:
        """The current policy's clamped entropy."""
        return Need(load("statistic", "clamped-entropy").Config(clamp=self.config.clamp), grad=True)  # type: ignore[call-arg]  # the statistic's own field

    @property
    def needs(self) -> frozenset[Need]:
        """The clamped entropy."""
        return frozenset({self.entropy})

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the negative bonus over all response tokens."""
        entropy_RT = torch.where(inputs.mask_RT, inputs.statistics[self.entropy], 0.0)
        mean_R = per_response(entropy_RT, inputs.mask_RT)
        metrics = {
            "mean": mean_R,
            "coefficient": torch.full_like(mean_R, self.coefficient),
            **touched(inputs.mask_RT & (self.coefficient > 0), inputs.mask_RT),
        }
        return Loss(-self.coefficient * aggregate(entropy_RT), metrics)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Move an adaptive coefficient by the step's clamped entropy."""
        entropy = metrics.get(f"train/{self.label}/mean")
        if entropy is None:  # nothing was trained on
            return
        self._steps += 1
        config = self.config
        if config.adaptive and self._steps > config.warm_up:
            beyond = min(0.0, entropy - config.low) + max(0.0, entropy - config.high)
            self.coefficient = min(config.most, max(config.least, self.coefficient - config.rate * beyond))

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficient and the count of steps."""
        return {"coefficient": self.coefficient, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.coefficient, self._steps = float(state["coefficient"]), int(state["steps"])
