"""Balls, bounds and the grid: where a block may be."""

from __future__ import annotations

import torch
from torch import Tensor

from saei.attacks.base import Ball, BlockSpace

_SLACK = 1e-4
"""Grid steps by which a whole number of them may come out of float32 arithmetic too small or too large."""


def project(
    block: Tensor, start: Tensor, radius: Tensor | float | None, space: BlockSpace, ball: Ball = "linf"
) -> Tensor:
    """Return the nearest point in the ball around ``start``, then within the bounds; what is not editable stays.

    ``linf`` bounds each value's distance from the start, ``l2`` the norm of all distances in the block together; where
    the radius is a tensor, distances are measured in it, and None is no ball. The arithmetic of ``linf`` is
    torchattacks' (difference, clamp, sum, clamp), so that results agree to the bit.
    """
    if radius is not None and ball == "linf":
        block = start + clamp(block - start, -radius, radius)
    elif radius is not None and ball == "l2":
        change = block - start
        block = start + change / _length(change, radius).clamp_min(1)
    block = clamp(block, space.low, space.high)
    return block if space.editable is None else torch.where(space.editable, block, start)


def snap(block: Tensor, start: Tensor, radius: Tensor | float | None, space: BlockSpace, ball: Ball = "linf") -> Tensor:
    """Return the nearest grid point, or where that leaves the ball or the bounds, the next one towards the start.

    Of the ``l2`` ball, which bounds all values together, those go to their nearest point that are closest to it, as
    many as the ball holds; the others go towards the start.
    A block without a grid is returned as it is. Otherwise the start is on the grid, and the block is what ``project``
    returned. Values that end where they began keep their bits; the others are ``k / n`` with ``n = 1 / grid``, as
    8-bit pictures become numbers.
    """
    if space.grid is None:
        return block
    n = torch.full_like(start, 1 / space.grid)  # a tensor, since GPUs divide by a number less exactly
    moved = (block - start) * n
    nearest = moved.round()
    # Between the start and the block, hence inside whatever holds both.
    towards = (moved + _SLACK * moved.sign()).trunc()
    origin = (start * n).round()
    within = (origin + nearest >= space.low * n - _SLACK) & (origin + nearest <= space.high * n + _SLACK)
    if radius is not None and ball == "linf":
        within &= nearest.abs() <= radius * n + _SLACK
    elif radius is not None and ball == "l2":
        within &= _that_fit(moved, torch.where(within, nearest, towards), towards, torch.as_tensor(radius) * n)
    steps = torch.where(within, nearest, towards)
    return torch.where(steps == 0, start, (origin + steps) / n)


def clamp(block: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clamp between numbers or tensors."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.minimum(torch.maximum(block, torch.as_tensor(low).to(block)), torch.as_tensor(high).to(block))
    return block.clamp(low, high)


def _length(change: Tensor, radius: Tensor | float) -> Tensor:
    """Return the norm of a change in units of the radius; infinite for any change where the radius is 0."""
    unit = torch.as_tensor(radius).to(change).clamp_min(torch.finfo(change.dtype).tiny)
    length: Tensor = torch.linalg.vector_norm(change / unit)
    return length


def _that_fit(moved: Tensor, nearest: Tensor, towards: Tensor, radius: Tensor) -> Tensor:
    """Return which values may go to their nearest point while all together stay in an l2 ball.

    Args:
        moved: Distances from the start, in grid steps.
        nearest: The same at the nearest points.
        towards: The same at the next points towards the start, which are all inside.
        radius: In grid steps.
    """
    unit = radius.to(moved).double().clamp_min(torch.finfo(moved.dtype).tiny)
    inside = (towards / unit).square()
    cost = ((nearest / unit).square() - inside).expand_as(moved).flatten()
    order = torch.sort((nearest - moved).abs().flatten(), stable=True).indices
    budget = (1 + 1e-6) ** 2 - inside.sum()  # float32 again
    within = torch.empty_like(cost, dtype=torch.bool)
    within[order] = cost[order].cumsum(0) <= budget
    return within.view_as(moved)
