"""SAPO: a gate that closes smoothly in the place of PPO's clip."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from saei.objectives.aggregation import touched
from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.ratio import PolicyRatio


class SAPO(Objective):
    """``-gate(ratio) * A`` per token with ``gate(r) = 4 / tau * sigmoid(tau * (r - 1))``, averaged as GRPO does.

    The gate's slope is 1 at ratio 1 and falls to 0 on both sides, the faster the larger tau. Metrics: those of the
    clipped surrogate; nothing is clipped, so ``clip_share`` is 0. ``touched`` is
    the share of the tokens whose gradient is not that of ``ratio * A``: those with a ratio other than 1.

    Source: https://arxiv.org/abs/2511.20347.
    """

    off_policy_only: ClassVar[bool] = True

    class Config(Objective.Config):
        """The gate acts only with several updates per batch: at ratio 1 its slope is 1, and the gradient GRPO's.

        Attributes:
            tau_positive: Temperature of the gate of tokens with a positive advantage.
            tau_negative: Temperature of the gate of the others; higher, since these make training unstable.
        """

        type: Literal["sapo"] = "sapo"
        tau_positive: float = Field(default=1.0, gt=0.0, le=1e6)
        tau_negative: float = Field(default=1.05, gt=0.0, le=1e6)

    config: Config

    def policy_loss(self, inputs: ObjectiveInput) -> Loss:
        """Return the loss of the selected tokens."""
        ratio = PolicyRatio.of(inputs)
        tau_RT = torch.where(inputs.advantage_RT > 0, self.config.tau_positive, self.config.tau_negative)
        gate_RT = 4 / tau_RT * torch.sigmoid(tau_RT * (ratio.ratio_RT - 1))
        value = self.aggregate(-gate_RT * inputs.advantage_RT * ratio.weight_RT, inputs)
        gated_RT = (ratio.ratio_RT.detach() != 1) & inputs.selected_RT
        metrics = ratio.metrics(torch.zeros_like(inputs.selected_RT))
        return Loss(value, metrics | touched(gated_RT, inputs.selected_RT))
