"""From values per token to one number per update batch.

An aggregation takes ``(values_RT, inputs)`` and returns this micro-batch's share of a number for the whole update
batch, over ``inputs.selected_RT`` and times ``inputs.weight_RT``, so that the shares of all micro-batches and processes
add up. Denominators count tokens, not weights. Values have to be finite also where they do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from saei.objectives.base import ObjectiveInput


def response_mean(values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
    """Return the mean over responses of the mean over their selected tokens, GRPO's aggregation.

    The denominators are each response's own number of selected tokens and ``inputs.n_responses``. A response
    without a selected token adds 0 and still counts.

    Source: https://arxiv.org/abs/2402.03300, equation 3.
    """
    selected_RT = inputs.selected_RT
    mean_R = _counted(values_RT, inputs).sum(dim=1) / selected_RT.sum(dim=1).clamp(min=1)
    return mean_R.sum() / inputs.n_responses


def token_mean(values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
    """Return the mean over the selected tokens of the whole update batch: a response counts by its length.

    The denominator is ``inputs.n_selected``.

    Source: https://arxiv.org/abs/2503.14476, section 3.3.
    """
    return _counted(values_RT, inputs).sum() / inputs.n_selected


def constant_length_mean(values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
    """Return the mean over responses of the sum over their selected tokens, divided by the longest length allowed.

    The denominator, ``inputs.n_responses * inputs.max_new_tokens``, does not depend on what was sampled: every token
    weighs the same, in short and in long responses and in every update.

    Source: https://arxiv.org/abs/2503.20783.
    """
    return _counted(values_RT, inputs).sum() / (inputs.n_responses * inputs.max_new_tokens)


def _counted(values_RT: Tensor, inputs: ObjectiveInput) -> Tensor:
    """Return the values of the selected tokens, times their weights, and 0 elsewhere."""
    counted_RT = values_RT * inputs.selected_RT
    return counted_RT if inputs.weight_RT is None else counted_RT * inputs.weight_RT


@torch.no_grad()
def per_response(values_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Return each response's mean over its masked tokens, ``[R]``, NaN without one: the form of a loss's metrics."""
    return (values_RT * mask_RT).sum(dim=1) / mask_RT.sum(dim=1)


@torch.no_grad()
def touched(touched_RT: Tensor, mask_RT: Tensor) -> dict[str, Tensor]:
    """Return what a term logs of the tokens that it acts on: their share of each response, and their number."""
    return {"touched": per_response(touched_RT.float(), mask_RT), "touched_tokens": touched_RT.sum(dim=1).float()}
