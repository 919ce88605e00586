"""The thermostat: a strength that follows the policy's entropy towards a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from saei.config.schedule import Level, Schedule, level_at
from saei.config.strategy import StrategyConfig
from saei.errors import TrainingError
from saei.interventions.base import Strength

LEAST = 1e-6
"""Nats per token below which an entropy before training is nothing to hold."""


class Thermostat(Strength):
    """Holds the entropy of the control probe at a target, which may follow a schedule, by the strength of the attack.

    After each reading H of ``control/entropy`` with a target H*, both in nats per token,

        strength ← clip(strength + gain · (1 - H / H*), low, high)

    This is integral control: what is clipped is the sum itself, so that it leaves a limit as soon as the error changes
    its sign. The reading before the first step counts. Source: original. Close to it are two rules for other knobs:
    Entrocraft's ``α ← α + H - H*`` for the weights of advantages, with a target that follows a schedule
    (arXiv 2604.26326), and Skywork-OR1's steps of one size for an entropy bonus, up while H < H* and else down
    (arXiv 2505.22312).

    It can hold the entropy only where a stronger attack makes the policy more uncertain; elsewhere it ends at a limit,
    which ``train/intervention/strength_at_limit`` shows: the share of the steps so far whose strength was one of the
    two. It reads the control probe alone, no evaluation. The entropy of a run that is steered so is no evidence against
    collapse.
    """

    reads_control_probe: ClassVar[bool] = True

    class Config(StrategyConfig):
        """Fields; the numbers are ours.

        Attributes:
            target: The entropy that is held: a number, or a schedule of ``[progress, number]`` points with straight
                lines between them. Progress is the share of the training done, and rises from point to point.
            unit: Of the target: ``share`` of the control probe's entropy before training, or ``nats`` per token.
            start: The strength before the first reading.
            low: Least strength.
            high: Greatest strength.
            gain: By how much the strength rises in a reading without any entropy.
        """

        type: Literal["thermostat"] = "thermostat"
        target: Level | Schedule = 1.0
        unit: Literal["share", "nats"] = "share"
        start: float = Field(default=1.0, ge=0.0, le=100.0)
        low: float = Field(default=0.0, ge=0.0, le=100.0)
        high: float = Field(default=4.0, gt=0.0, le=100.0)
        gain: float = Field(default=0.5, gt=0.0, le=100.0)

        @model_validator(mode="after")
        def _in_order(self) -> Self:
            if not self.low <= self.start <= self.high or self.low == self.high:
                raise ValueError(
                    f"A strength moves between its limits: low is {self.low:g}, start {self.start:g}, high "
                    f"{self.high:g}. Put start between them, and high above low."
                )
            return self

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._strength = self.config.start
        self._entropy_before: float | None = None
        self._steps = 0
        self._steps_at_limit = 0

    def at(self, progress: float) -> float:
        """Return the strength that the last reading led to."""
        return self._strength

    def target(self, progress: float) -> float:
        """Return the target at a share of the training in [0, 1], in the config's unit."""
        return level_at(self.config.target, progress)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Count a step, and follow a reading of the control probe.

        Raises:
            TrainingError: If the policy has no entropy before training, a share of which could be held.
        """
        if any(name.startswith("train/") for name in metrics):
            self._steps += 1
            self._steps_at_limit += self._at_limit
        if "control/entropy" not in metrics:
            return
        entropy = metrics["control/entropy"]
        if self._entropy_before is None:
            self._entropy_before = entropy
        target = self.target(metrics["control/progress"])
        if self.config.unit == "share":
            if self._entropy_before < LEAST:
                raise TrainingError(
                    "A thermostat that holds a share of the entropy before training needs some entropy then.",
                    reason=f"The control probe has {self._entropy_before:.1e} nats per token.",
                    remedy="Set strength.unit=nats with a target in nats, or begin with a policy that is less certain.",
                )
            target *= self._entropy_before
        config = self.config
        self._strength = min(config.high, max(config.low, self._strength + config.gain * (1 - entropy / target)))

    @property
    def _at_limit(self) -> bool:
        return self._strength in (self.config.low, self.config.high)

    def metrics(self) -> dict[str, float]:
        """Return the share of the steps, from the first to the present one, with a strength at its limits."""
        return {"strength_at_limit": (self._steps_at_limit + self._at_limit) / (self._steps + 1)}

    def state_dict(self) -> dict[str, Any]:
        """Return the strength, the entropy before training, and the counts of steps."""
        return {
            "strength": self._strength,
            "entropy_before": self._entropy_before,
            "steps": self._steps,
            "steps_at_limit": self._steps_at_limit,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        before = state["entropy_before"]
        self._strength, self._entropy_before = float(state["strength"]), None if before is None else float(before)
        self._steps, self._steps_at_limit = int(state["steps"]), int(state["steps_at_limit"])
