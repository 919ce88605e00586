"""The noise of a diffusion process: NoisyRollout's distortion of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saei.attacks.ball import project, snap
from saei.attacks.base import Attack, BlockSpace, Point, PointCriterion, Space
from saei.config.strategy import StrategyConfig

TIMESTEPS = 1000
"""Length of the diffusion process."""


class DiffusionNoise(Attack):
    """Replaces the image by a draw from a diffusion process: ``x_t = sqrt(ᾱ_t) x + sqrt(1 - ᾱ_t) ε``.

    ``ᾱ_t`` is the product of ``1 - β_s`` for s from 0 to t, where β rises as
    ``sigmoid(linspace(-6, 6, 1000)) * (5e-3 - 1e-5) + 1e-5``. The strength shortens the way into the process:
    ``t = int(t0 * strength)``. At t = 500 the noise has a standard deviation of .505, 129 grey levels; at t = 0 it
    still has one of .005; a strength of exactly 0 leaves the image as it is. The result is clamped to [0, 1] and cut
    off, not rounded, to 8 bits, all as in NoisyRollout (arXiv 2504.13055). The criterion is never asked.
    """

    spaces = frozenset({"pixels"})
    origin = "noisy"
    ball = "none"

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            t0: Time in the diffusion process at strength 1; NoisyRollout has 500 for Geometry3K and 450 for K12.
            resolution: Where the noise is added. ``original``: to the picture before the processor resizes it, as
                NoisyRollout does, so that shrinking averages some of it away; what has no original is treated as
                ``seen``. ``seen``: to the picture that the model sees.
        """

        type: Literal["diffusion-noise"] = "diffusion-noise"
        t0: int = Field(default=500, ge=0, lt=TIMESTEPS)
        resolution: Literal["original", "seen"] = "original"

    config: Config

    def attack(
        self,
        criterion: PointCriterion,
        start: Point,
        *,
        space: Space,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> Point:
        """Return the noisy point."""
        return tuple(
            self._moved(block.detach(), block_space, generators[example])
            for block, block_space, example in zip(start, space.blocks, space.examples, strict=True)
        )

    def _moved(self, start: Tensor, space: BlockSpace, generator: torch.Generator) -> Tensor:
        if space.scale == 0:
            return start.clone()
        t = min(int(self.config.t0 * space.scale), TIMESTEPS - 1)

        def diffuse(picture: Tensor) -> Tensor:
            noise = torch.randn(picture.shape, generator=generator, dtype=picture.dtype).to(picture.device)
            image_share, noise_share = mixture(t)
            return ((image_share * picture + noise_share * noise).clamp(0, 1) * 255).floor() / 255

        if self.config.resolution == "original" and space.redraw is not None:
            moved = space.redraw(diffuse).to(start)
        else:
            moved = diffuse(start)
        return snap(project(moved, start, None, space), start, None, space)


def mixture(t: int) -> tuple[float, float]:
    """Return the shares of image and noise in ``x_t``, ``sqrt(ᾱ_t)`` and ``sqrt(1 - ᾱ_t)``."""
    beta = torch.linspace(-6, 6, TIMESTEPS, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    alpha_bar = float((1 - beta[: t + 1]).prod())
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
