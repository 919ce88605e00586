"""What every attack owes at run time, checked on each result."""

from __future__ import annotations

import torch
from torch import Tensor

from saei.attacks.base import Attack, BlockSpace, Point, Space
from saei.config.strategy import Strategy
from saei.errors import TrainingError

_SLACK = 1e-5
"""Distance by which float32 may leave a ball or the bounds, in units of the radius or of the block's own size."""


def check_result(maker: Strategy, start: Point, moved: Point, space: Space) -> None:
    """Check what an attack, or what stands in for it, made of a point.

    Args:
        maker: What made it. The ball is checked of an attack alone.
        start: Where it began.
        moved: Where it ended.
        space: Bounds, grid and editable masks.

    Raises:
        TrainingError: Naming the strategy and what it broke.
    """
    broken = _broken_by(maker, start, moved, space)
    if broken:
        raise TrainingError(
            f"What the {maker.kind} '{maker.name()}' returns keeps its contract.",
            reason=f"Here {broken}.",
            remedy=f"Mend it: saei.testing.check_{maker.kind} finds what else it breaks. Until then take another one.",
        )


def _broken_by(maker: Strategy, start: Point, moved: Point, space: Space) -> str:
    """Return in words what a result breaks, nothing if it breaks nothing."""
    if len(moved) != len(start):
        return f"it returned {len(moved)} blocks for {len(start)}"
    for number, (block, origin, block_space) in enumerate(zip(moved, start, space.blocks, strict=True)):
        problem = _broken_block(maker, origin, block, block_space)
        if problem:
            return f"block {number} of {len(start)} {problem}"
    return ""


def _broken_block(maker: Strategy, start: Tensor, block: Tensor, space: BlockSpace) -> str:
    if block.shape != start.shape or block.dtype != start.dtype:
        return f"has shape {tuple(block.shape)} and type {block.dtype} for {tuple(start.shape)} and {start.dtype}"
    if not bool(block.isfinite().all()):
        return "has values that are not finite"
    if bool(((block < space.low - _SLACK) | (block > space.high + _SLACK)).any()):
        return "leaves the bounds"
    if space.grid is not None and bool(((block / space.grid - (block / space.grid).round()).abs() > 1e-2).any()):
        return f"is off the grid of {space.grid:.5f}"
    if space.editable is not None and bool(((block != start) & ~space.editable).any()):
        return "changes what is not editable"
    if not isinstance(maker, Attack):
        return ""
    radius = maker.radius(space)
    if radius is None:
        return ""
    change = block - start
    if maker.ball == "l2":
        unit = torch.as_tensor(radius).to(change).clamp_min(torch.finfo(change.dtype).tiny)
        length = float(torch.linalg.vector_norm(change / unit))
        return "" if length <= 1 + 1e-3 else f"lies at {length:.4g} times the radius of its l2 ball"
    if bool((change.abs() > radius + _SLACK).any()):
        return f"moves a value by {float(change.abs().max()):.4g} and leaves its linf ball"
    return ""
