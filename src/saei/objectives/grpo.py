"""GRPO: the clipped policy loss, averaged per response."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat

from saei.objectives.aggregation import per_response, response_mean
from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.view_weight import view_weight


class GRPO(Objective):
    """PPO's clipped surrogate on group advantages, a mean over responses of the mean over their tokens.

    The ratio is always between the current and the old policy under the update view, hence 1 at the first update
    of a batch. Where a response was drawn from another view, the view weight multiplies its tokens' loss.

    Metrics, over the tokens that the loss uses: ``ratio_mean``, ``ratio_max``, ``clip_share`` (tokens whose
    gradient the clip cut off) and ``view_weight``.

    Source: https://arxiv.org/abs/2402.03300; the asymmetric range is https://arxiv.org/abs/2503.14476.
    """

    class Config(Objective.Config):
        """Fields of GRPO.

        Attributes:
            clip_low: How far the ratio may fall below 1 before the gradient of a negative advantage stops.
            clip_high: How far it may rise above 1 before the gradient of a positive advantage stops.
        """

        type: Literal["grpo"] = "grpo"
        clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
        clip_high: NonNegativeFloat = 0.2

    config: Config

    def policy_loss(self, inputs: ObjectiveInput) -> Loss:
        """Return the clipped loss of the selected tokens."""
        selected_RT = inputs.selected_RT
        # Masked before the exponential: an infinite ratio on padding would turn the gradient into NaN.
        log_ratio_RT = torch.where(selected_RT, inputs.logp_RT - inputs.old_logp_RT, 0.0)
        ratio_RT = log_ratio_RT.exp()
        clipped_RT = ratio_RT.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        advantage_R1 = inputs.advantage_R[:, None]
        gain_RT, clipped_gain_RT = ratio_RT * advantage_R1, clipped_RT * advantage_R1
        weight_RT = view_weight(inputs, inputs.beta_R)
        value = response_mean(-torch.minimum(gain_RT, clipped_gain_RT) * weight_RT, selected_RT, inputs)
        highest_R = torch.where(selected_RT, ratio_RT, -torch.inf).amax(dim=1).detach()
        metrics = {
            "ratio_mean": per_response(ratio_RT, selected_RT),
            "ratio_max": torch.where(selected_RT.any(dim=1), highest_R, torch.nan),
            "clip_share": per_response(clipped_gain_RT < gain_RT, selected_RT),
            "view_weight": per_response(weight_RT, selected_RT),
        }
        return Loss(value, metrics)
