"""Balls, bounds and the grid: where a block may be."""

from __future__ import annotations

import torch
from torch import Tensor

from saei.attacks.base import BlockSpace


def project(block: Tensor, start: Tensor, radius: Tensor | float, space: BlockSpace) -> Tensor:
    """Project onto the l-infinity ball around ``start`` and then onto the bounds.

    The arithmetic is torchattacks' (difference, clamp, sum, clamp), so that results agree to the bit.
    """
    return bound(start + clamp(block - start, -radius, radius), space)


def bound(block: Tensor, space: BlockSpace) -> Tensor:
    """Project onto the bounds."""
    return clamp(block, space.low, space.high)


def snap(block: Tensor, start: Tensor, radius: Tensor | float | None, space: BlockSpace) -> Tensor:
    """Round to the nearest grid value inside the ball and the bounds; a block without a grid is returned as it is.

    The start is on the grid, hence there always is one. Values are ``k / n`` for ``n = 1 / grid``, which is what a
    picture's 8-bit values become.
    """
    if space.grid is None:
        return block
    n = round(1 / space.grid)
    low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
    if radius is not None:
        low, high = torch.maximum(low.to(block), start - radius), torch.minimum(high.to(block), start + radius)
    # Bounds that lie on the grid come out of the arithmetic a rounding beside it.
    slack = 1e-3
    lowest, highest = (low * n - slack).ceil(), (high * n + slack).floor()
    return clamp((block * n).round(), lowest.to(block), highest.to(block)) / n


def straight_through(block: Tensor, snapped: Tensor) -> Tensor:
    """Return ``snapped`` in value and ``block`` in gradient."""
    return block + (snapped - block).detach() if block is not snapped else block


def clamp(block: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clamp between numbers or tensors."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.minimum(torch.maximum(block, torch.as_tensor(low).to(block)), torch.as_tensor(high).to(block))
    return block.clamp(low, high)
