"""CISPO: clip the importance weight of a token, not its gradient."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.objectives.aggregation import token_mean, touched
from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.ratio import PolicyRatio


class CISPO(Objective):
    """``-clip(ratio) * A * logp`` per token, with a detached clipped ratio, as one mean over the update batch's tokens.

    A clipped token keeps a gradient, where PPO's clip takes it away. Metrics: those of the clipped surrogate, of which
    ``clip_share`` counts the tokens whose ratio was clipped, and ``touched_tokens``, their number.

    Source: https://arxiv.org/abs/2506.13585.
    """

    off_policy_only: ClassVar[bool] = True

    class Config(Objective.Config):
        """The clip acts only with several updates per batch: at ratio 1 this is a policy gradient without any.

        Attributes:
            clip_low: How far below 1 a ratio counts; None leaves that side open, as the paper does.
            clip_high: How far above 1 a ratio counts. The paper tunes this bound and does not give it; the default, a
                ratio of 5, is ScaleRL's (https://arxiv.org/abs/2510.13786), as TRL recommends it.
        """

        type: Literal["cispo"] = "cispo"
        clip_low: float | None = Field(default=None, ge=0.0, le=1.0)
        clip_high: float = Field(default=4.0, ge=0.0, le=1e6)

    config: Config

    def policy_loss(self, inputs: ObjectiveInput) -> Loss:
        """Return the loss of the selected tokens."""
        ratio = PolicyRatio.of(inputs)
        lowest = None if self.config.clip_low is None else 1 - self.config.clip_low
        clipped_RT = ratio.ratio_RT.detach().clamp(lowest, 1 + self.config.clip_high)
        logp_RT = torch.where(inputs.selected_RT, inputs.logp_RT, 0.0)
        value = self.aggregate(-clipped_RT * inputs.advantage_RT * logp_RT * ratio.weight_RT, inputs)
        changed_RT = (clipped_RT != ratio.ratio_RT) & inputs.selected_RT
        return Loss(value, ratio.metrics(changed_RT) | touched(changed_RT, inputs.selected_RT))

    def aggregate(self, values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
        """Return the mean over the selected tokens of the update batch."""
        return token_mean(values_RT, inputs)
