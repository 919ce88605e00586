"""PPO's clipped surrogate: what the policy losses of the GRPO family share."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from saei.objectives.base import Loss, Objective, ObjectiveInput
from saei.objectives.ratio import PolicyRatio


class ClippedSurrogate(Objective):
    """``-min(ratio * A, clip(ratio) * A)`` per token, times the view weight.

    The ratio is always between the current and the old policy under the update view, hence 1 at the first update
    of a batch. Where a response was drawn from another view, the view weight multiplies its tokens' loss; so do the
    weights of the objective, when the tokens are aggregated.

    Metrics, over the tokens that the loss uses: ``ratio_mean``, ``ratio_max``, ``clip_share`` (tokens whose
    gradient the clip cut off) and ``view_weight``.

    To add one: derive and nest a ``Config``. To average tokens in another way, override ``aggregate``; for a ratio of
    something other than a token, override ``level``.

    Source: https://arxiv.org/abs/1707.06347, equation 7; the asymmetric range is https://arxiv.org/abs/2503.14476.
    """

    class Config(Objective.Config):
        """Fields of every clipped surrogate.

        Attributes:
            clip_low: How far the ratio may fall below 1 before the gradient of a negative advantage stops.
            clip_high: How far it may rise above 1 before the gradient of a positive advantage stops.
        """

        clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
        clip_high: float = Field(default=0.2, ge=0.0, le=1e6)

    config: Config

    def level(self, logs_RT: Tensor, selected_RT: Tensor) -> Tensor:
        """Return the log-ratio that the loss uses at each token, ``[R, T]``.

        Here it is the token's own: each token has its own ratio, clip and view weight. An objective whose ratio belongs
        to several tokens, such as a whole response, returns at each of them the log-ratio that they share.

        Args:
            logs_RT: Log-ratio of each token, 0 where it is not selected. Called twice: with the current policy's
                log-probability minus the old one's, for the ratio, and with the old one's minus that of the
                distribution the token was drawn from, for the view weight.
            selected_RT: bool, the tokens that the policy loss uses.
        """
        return logs_RT

    def policy_loss(self, inputs: ObjectiveInput) -> Loss:
        """Return the clipped loss of the selected tokens."""
        ratio = PolicyRatio.of(inputs, self.level)
        clipped_RT = ratio.ratio_RT.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        gain_RT, clipped_gain_RT = ratio.ratio_RT * inputs.advantage_RT, clipped_RT * inputs.advantage_RT
        value = self.aggregate(-torch.minimum(gain_RT, clipped_gain_RT) * ratio.weight_RT, inputs)
        return Loss(value, ratio.metrics(clipped_gain_RT < gain_RT))
