"""An attack on some patches of the picture, chosen by how much they matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.base import BlockSpace, Point, PointCriterion, Space
from saei.attacks.gradient import example_gradients
from saei.attacks.wrapper import Wrapper
from saei.config.strategy import Frac, StrategyConfig
from saei.errors import ConfigError


class Patches(Wrapper):
    """Runs another attack on a share of the square patches of each picture, and leaves the rest as it is.

    A patch matters by the mean size of the criterion's gradient in it, at the start and over all colours: the saliency
    of arXiv 1312.6034. Equal ones go in reading order. Patches begin at the top left; the last ones of a row or column
    may be narrower. At least one patch is attacked. Source of the attack: original.
    """

    class Config(Wrapper.Config):
        """Fields.

        Attributes:
            share: Share of the patches that are attacked, ours.
            by: Which: those that matter ``most`` or ``least``, or at ``random``, which asks for no gradient.
            size: Side of a patch in pixels that the model sees; 14 is that of most vision transformers.
        """

        type: Literal["patches"] = "patches"
        share: Frac = Field(default=Fraction(1, 4), gt=0, le=1)
        by: Literal["most", "least", "random"] = "most"
        size: int = Field(default=14, ge=1, le=4096)

        @property
        def begins_at_clean(self) -> bool:
            """Whether its first gradient is that at the clean view, by which patches are chosen."""
            return self.by != "random"

    config: Config

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config)
        self.spaces = self.of.spaces & {"pixels"}
        if not self.spaces:
            raise ConfigError(
                "Patches are parts of a picture.",
                reason=f"The attack '{self.of.name()}' moves no pixels.",
                remedy="Set the attack's `of` to one that does.",
            )

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the point with some patches moved.

        Raises:
            ModelError: If patches are chosen by the gradient and the criterion has none.
        """
        if self.config.by == "random":
            worth = [
                torch.rand(block.shape[-2:].numel(), generator=generators[example]).to(block.device)
                for block, example in zip(start, space.examples, strict=True)
            ]
        else:
            gradients = example_gradients(criterion, start, space.examples)
            worth = [self._worth(*of_block) for of_block in zip(gradients, space.blocks, strict=True)]
        blocks = zip(start, space.blocks, worth, strict=True)
        chosen = tuple(replace(block_space, editable=self._editable(x, block_space, w)) for x, block_space, w in blocks)
        space = replace(space, blocks=chosen)
        return self.of.attack(criterion, start, space=space, progress=progress, generators=generators)

    def _worth(self, gradient: Tensor, space: BlockSpace) -> Tensor:
        """Return the mean size of the gradient in each patch, negative where the least is looked for."""
        size = gradient.abs() if space.editable is None else gradient.abs() * space.editable
        patch_HW = patch_of_pixel(size.shape[-2], size.shape[-1], self.config.size).to(size.device)
        values = size.sum(0).double().flatten()
        sums = torch.zeros(int(patch_HW.max()) + 1, dtype=values.dtype, device=values.device)
        sums.index_add_(0, patch_HW.flatten(), values)
        worth = sums / torch.bincount(patch_HW.flatten())
        return -worth if self.config.by == "least" else worth

    def _editable(self, start: Tensor, space: BlockSpace, worth: Tensor) -> Tensor:
        """Return what of a block is attacked: the patches that are worth most among those with something editable."""
        patch_HW = patch_of_pixel(start.shape[-2], start.shape[-1], self.config.size).to(start.device)
        editable = torch.ones_like(start, dtype=torch.bool)
        if space.editable is not None:
            editable = editable & space.editable
        candidates = patch_HW[editable.any(0)].unique()
        count = max(1, round(self.config.share * len(candidates)))
        order = torch.sort(worth[candidates], descending=True, stable=True).indices
        return editable & torch.isin(patch_HW, candidates[order[:count]])


def patch_of_pixel(height: int, width: int, size: int) -> Tensor:
    """Return ``[H, W]`` numbers of the square patches that pixels belong to, in reading order from the top left."""
    columns = -(-width // size)
    return torch.arange(height)[:, None] // size * columns + torch.arange(width) // size
