"""View makers: changes of a view that need no gradient, for needs that ask what the policy makes of the changed view.

C colour channels, H and W pixels of a canvas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.config.strategy import Frac, Strategy, StrategyConfig
from saei.need import Need
from saei.runtime.seeds import derive
from saei.types import View


class PictureChange(Strategy, ABC):
    """Changes the pictures of a view and nothing else. To add one, implement ``change``.

    A view is changed once, and what the policy makes of the result is kept; so a change is a function of the view. What
    it draws at random it draws from a source that is seeded by the view's index.
    """

    def make_view(self, policy: Any, view: View) -> View:
        """Return the view with changed canvases; one without a picture comes back as it is."""
        canvases = tuple(
            self.change(canvas_CHW, torch.Generator().manual_seed(derive(view.index, self.name(), number)))
            for number, canvas_CHW in enumerate(view.canvases)
        )
        return replace(view, origin=self.name(), canvases=canvases) if canvases else view

    @abstractmethod
    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed canvas of the same size, on the grid of multiples of 1/255.

        Args:
            canvas_CHW: float32 in [0, 1].
            generator: Source of all randomness, on the CPU.
        """


class Blank(PictureChange):
    """An even grey in place of each picture: what is left is what the text alone says."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            grey: The grey level, of 0 (black) to 255 (white).
        """

        type: Literal["blank"] = "blank"
        grey: int = Field(default=128, ge=0, le=255)

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return an even canvas."""
        return torch.full_like(canvas_CHW, self.config.grey / 255)


class BlackPatches(PictureChange):
    """Each square patch of a picture turns black with some probability.

    Source: the masked picture of PAPO (https://arxiv.org/abs/2507.06448) and VPPO (https://arxiv.org/abs/2510.09285);
    patch size and probability are those of VPPO. There patches are drawn anew in each step; here they are drawn once
    for each view.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            patch: Side of a patch in pixels of the canvas; those at the right and lower edges may be smaller.
            probability: That a patch turns black.
        """

        type: Literal["black-patches"] = "black-patches"
        patch: int = Field(default=14, ge=1, le=4096)
        probability: Frac = Field(default=Fraction(1, 2), gt=0, le=1)

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the canvas with black patches."""
        height, width = canvas_CHW.shape[-2:]
        side = self.config.patch
        drawn = torch.rand(-(-height // side), -(-width // side), generator=generator)
        black = drawn < float(self.config.probability)
        black_HW = black.repeat_interleave(side, 0)[:height].repeat_interleave(side, 1)[:, :width]
        return canvas_CHW.masked_fill(black_HW.to(canvas_CHW.device), 0.0)


def needs_picture(needs: Iterable[Need]) -> bool:
    """Return whether a need asks about a view with changed pictures; of a view without one it would tell nothing."""
    return any(
        isinstance(need.view, StrategyConfig) and issubclass(need.view.strategy, PictureChange) for need in needs
    )
