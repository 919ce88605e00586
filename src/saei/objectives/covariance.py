"""How a token's advantage and log-probability vary together: what drives the entropy of a policy down."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def covariance(advantage_RT: Tensor, logp_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Return each token's share in the covariance, ``(A - mean A) * (logp - mean logp)``; 0 where the mask is False.

    The means are those of all tokens of the mask. Computed in float64; exactly 0 where all advantages are equal.

    Source: https://arxiv.org/abs/2505.22617.
    """
    product_RT = torch.zeros(mask_RT.shape, dtype=torch.float64, device=mask_RT.device)
    if mask_RT.any():
        product_RT[mask_RT] = _centred(advantage_RT[mask_RT]) * _centred(logp_RT[mask_RT])
    return product_RT


def _centred(values_M: Tensor) -> Tensor:
    # Relative to the first, so that equal values have no rounding error left.
    differences_M = values_M.double() - values_M[0].double()
    return differences_M - differences_M.mean()
