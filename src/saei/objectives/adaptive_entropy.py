"""An entropy bonus that comes and goes: its coefficient follows the entropy of what is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from saei.config.schedule import Level, Schedule, level_at
from saei.config.strategy import StrategyConfig
from saei.need import Need
from saei.objectives.aggregation import per_response, touched
from saei.objectives.base import Aggregate, Loss, ObjectiveInput, Term
from saei.objectives.batch import UpdateBatch
from saei.objectives.entropy_bonus import ENTROPY


class AdaptiveEntropy(Term):
    """An entropy bonus whose coefficient rises while the policy's entropy is below a target, and falls while it is not.

    At the beginning of each training step, with H the mean entropy of the tokens that the step drew,

        coefficient ← clip(coefficient + delta, 0, max)  if H < target,
        coefficient ← clip(coefficient - delta, 0, max)  else,

    and the step's bonus is ``coefficient`` times the current entropy if H < target, else nothing. H is a mean over the
    tokens of all processes, in nats, of the entropies of the sampling pass: those that ``entropy.temperature`` says.
    Forced tokens, replayed responses and those that a guard dropped do not count. The coefficient moves once in a
    training step, however many optimiser steps and micro-batches it has.

    Metrics: ``mean``, the current entropy without a coefficient; ``coefficient``, the one that is applied;
    ``drawn_entropy``, H; ``touched``, the share of the tokens that get the bonus.

    Source: Skywork-OR1 (https://arxiv.org/abs/2505.22312), whose numbers the defaults are. TRL's
    ``use_adaptive_entropy`` has the same rule with ``delta: 0.005`` and ``max: 1.0``. A target that follows a schedule
    is Entrocraft's (https://arxiv.org/abs/2604.26326), which steers the weights of advantages by it.
    """

    class Config(StrategyConfig):
        """Fields of the adaptive bonus.

        Attributes:
            target: The entropy that is held, in nats per token: a number, or a schedule of ``[progress, number]``
                points with straight lines between them. Progress is the share of the training done.
            delta: By how much the coefficient moves in a step.
            max: The greatest coefficient.
            start: The coefficient before the first step.
        """

        type: Literal["adaptive-entropy"] = "adaptive-entropy"
        target: Level | Schedule = 0.2
        delta: float = Field(default=1e-4, gt=0.0, le=1e6)
        max: float = Field(default=5e-3, gt=0.0, le=1e6)
        start: float = Field(default=0.0, ge=0.0, le=1e6)

        @model_validator(mode="after")
        def _start_within(self) -> Self:
            if self.start > self.max:
                raise ValueError(f"The coefficient starts at {self.start:g}, above max, {self.max:g}. Lower start.")
            return self

        @property
        def steers_entropy(self) -> bool:
            """True."""
            return True

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._coefficient = self.config.start
        self._below = False
        self._drawn_entropy = 0.0

    @property
    def applied(self) -> float:
        """The coefficient of this step's bonus."""
        return self._coefficient if self._below else 0.0

    @property
    def needs(self) -> frozenset[Need]:
        """The current policy's entropy."""
        return frozenset({ENTROPY})

    def begin_step(self, batch: UpdateBatch, *, progress: float) -> None:
        """Move the coefficient by the entropy of what the step drew."""
        drawn_M = batch.behaviour_entropy_RT[batch.mask_RT & batch.drawn_RT]
        if not len(drawn_M):
            return
        self._drawn_entropy = float(drawn_M.double().mean())
        self._below = self._drawn_entropy < level_at(self.config.target, progress)
        moved = self._coefficient + (self.config.delta if self._below else -self.config.delta)
        self._coefficient = min(self.config.max, max(0.0, moved))

    def loss(self, inputs: ObjectiveInput, aggregate: Aggregate) -> Loss:
        """Return the negative bonus over all response tokens."""
        entropy_RT = torch.where(inputs.mask_RT, inputs.statistics[ENTROPY], 0.0)
        mean_R = per_response(entropy_RT, inputs.mask_RT)
        metrics = {
            "mean": mean_R,
            "coefficient": torch.full_like(mean_R, self.applied),
            "drawn_entropy": torch.full_like(mean_R, self._drawn_entropy),
            **touched(inputs.mask_RT & (self.applied > 0), inputs.mask_RT),
        }
        return Loss(-self.applied * aggregate(entropy_RT), metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficient and the last reading."""
        return {"coefficient": self._coefficient, "below": self._below, "drawn_entropy": self._drawn_entropy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._coefficient, self._below = float(state["coefficient"]), bool(state["below"])
        self._drawn_entropy = float(state["drawn_entropy"])
