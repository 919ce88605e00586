"""From values per token to one number per update batch.

An aggregation such as ``response_mean`` takes ``(values_RT, mask_RT, inputs)`` and returns this micro-batch's share
of a mean over the whole update batch, so that the shares of all micro-batches and processes add up to that mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saei.objectives.base import ObjectiveInput


def response_mean(values_RT: Tensor, mask_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
    """Return the mean over responses of the mean over their masked tokens, GRPO's aggregation.

    The denominators are each response's own number of masked tokens and ``inputs.n_responses``. A response
    without a masked token adds 0 and still counts.

    Args:
        values_RT: Finite values, also where they are masked out.
        mask_RT: bool, the tokens that count.
        inputs: The micro-batch, for its global counts.

    Source: https://arxiv.org/abs/2402.03300, equation 3.
    """
    mean_R = (values_RT * mask_RT).sum(dim=1) / mask_RT.sum(dim=1).clamp(min=1)
    return mean_R.sum() / inputs.n_responses


@torch.no_grad()
def per_response(values_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Return each response's mean over its masked tokens, ``[R]``, NaN without one: the form of a loss's metrics."""
    return (values_RT * mask_RT).sum(dim=1) / mask_RT.sum(dim=1)
