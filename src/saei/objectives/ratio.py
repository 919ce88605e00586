"""The ratio of the current policy to the old one, and the metrics of the losses that are made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saei.objectives.aggregation import per_response
from saei.objectives.base import ObjectiveInput
from saei.objectives.view_weight import view_weight


@dataclass(frozen=True, eq=False, slots=True)
class PolicyRatio:
    """``p / p_old`` of each token under the update view, and what the gap between the views weighs.

    Attributes:
        log_RT: Logarithm of the ratio, with graph, 0 where the loss uses no token.
        ratio_RT: The ratio.
        weight_RT: The view weight, detached.
        selected_RT: bool, the tokens that the loss uses.
    """

    log_RT: Tensor
    ratio_RT: Tensor
    weight_RT: Tensor
    selected_RT: Tensor

    @classmethod
    def of(cls, inputs: ObjectiveInput, level: Callable[[Tensor, Tensor], Tensor] | None = None) -> PolicyRatio:
        """Return the ratios of a micro-batch.

        Args:
            inputs: The micro-batch.
            level: See ``ClippedSurrogate.level``; None leaves each token its own ratio.
        """
        selected_RT = inputs.selected_RT
        # Masked before the exponential: an infinite ratio on padding would turn the gradient into NaN.
        log_RT = torch.where(selected_RT, inputs.logp_RT - inputs.old_logp_RT, 0.0)
        gap_RT = torch.where(selected_RT, inputs.old_logp_RT - inputs.behaviour_logp_RT, 0.0)
        if level is not None:
            log_RT, gap_RT = level(log_RT, selected_RT), level(gap_RT, selected_RT)
        return cls(log_RT, log_RT.exp(), view_weight(inputs, inputs.beta_R, gap_RT), selected_RT)

    @torch.no_grad()
    def metrics(self, clipped_RT: Tensor) -> dict[str, Tensor]:
        """Return ``ratio_mean``, ``ratio_max``, ``clip_share`` and ``view_weight``, over the tokens that the loss uses.

        Args:
            clipped_RT: bool, the tokens that a clip acts on.
        """
        highest_R = torch.where(self.selected_RT, self.ratio_RT, -torch.inf).amax(dim=1)
        return {
            "ratio_mean": per_response(self.ratio_RT, self.selected_RT),
            "ratio_max": torch.where(self.selected_RT.any(dim=1), highest_R, torch.nan),
            "clip_share": per_response(clipped_RT, self.selected_RT),
            "view_weight": per_response(self.weight_RT, self.selected_RT),
        }
