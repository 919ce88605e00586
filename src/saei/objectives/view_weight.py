"""The weight that carries the gap between the view a token was drawn from and the view it is trained under."""

from __future__ import annotations

import torch
from torch import Tensor

from saei.objectives.base import ObjectiveInput


@torch.no_grad()
def view_weight(inputs: ObjectiveInput, beta_R: Tensor, gap_RT: Tensor | None = None) -> Tensor:
    """Return the detached weight ``min(cap, exp(beta * gap))`` per token, ``[R, T]``.

    It is exactly 1 for a response trained under its own view, where the two log-probabilities differ only by how
    they were computed, where beta is 0, and on padding. The forced tokens of a response are weighed if its drawn
    ones are, each by the log-probability that it was itself drawn with, so the weight is right whichever view that was;
    in a response trained under its own view they count in full, as with beta 0.

    Args:
        inputs: The micro-batch.
        beta_R: 0 ignores the gap, 1 corrects it fully up to the cap.
        gap_RT: None for ``old_logp - behaviour_logp`` of each token; an objective whose ratio is not that of a token
            passes a gap on the scale of its ratio.

    Source: original; the form is a truncated importance weight.
    """
    if gap_RT is None:
        gap_RT = inputs.old_logp_RT - inputs.behaviour_logp_RT
    weight_RT = torch.minimum(torch.exp(beta_R[:, None] * gap_RT), inputs.cap_R[:, None])
    counts_RT = inputs.mask_RT & (inputs.off_view_R & (beta_R != 0))[:, None]
    return torch.where(counts_RT, weight_RT, 1.0)
