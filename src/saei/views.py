"""View makers: changes of a view that need no gradient, for needs that ask what the policy makes of the changed view.

C colour channels, H and W pixels of a canvas.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny
from torch import Tensor
from torch.nn.functional import conv1d, interpolate, pad

from saei.config.strategy import Frac, Section, Strategy, StrategyConfig
from saei.errors import nearest, shown
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


class PatchFields(Section):
    """Fields of whatever looks at a picture with black patches.

    Attributes:
        patch: Side of a patch in pixels of the canvas; those at the right and lower edges may be smaller.
        probability: That a patch turns black.
    """

    patch: int = Field(default=14, ge=1, le=4096)
    probability: Frac = Field(default=Fraction(1, 2), gt=0, le=1)

    @property
    def patches(self) -> StrategyConfig:
        """The view maker of these patches, for needs."""
        return BlackPatches.Config(patch=self.patch, probability=self.probability)


class BlackPatches(PictureChange):
    """Each square patch of a picture turns black with some probability.

    Source: the masked picture of PAPO (https://arxiv.org/abs/2507.06448) and VPPO (https://arxiv.org/abs/2510.09285);
    patch size and probability are those of VPPO. There patches are drawn anew in each step; here they are drawn once
    for each view.
    """

    class Config(PatchFields, StrategyConfig):
        """The shared fields alone."""

        type: Literal["black-patches"] = "black-patches"

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the canvas with black patches."""
        height, width = canvas_CHW.shape[-2:]
        side = self.config.patch
        drawn = torch.rand(-(-height // side), -(-width // side), generator=generator)
        black = drawn < float(self.config.probability)
        black_HW = black.repeat_interleave(side, 0)[:height].repeat_interleave(side, 1)[:, :width]
        return canvas_CHW.masked_fill(black_HW.to(canvas_CHW.device), 0.0)


class Blur(PictureChange):
    """A Gaussian blur, such as that of a picture out of focus; at its edges a picture goes on as its mirror image."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            sigma: Standard deviation of the blur, in pixels of the canvas; the default is ours.
        """

        type: Literal["blur"] = "blur"
        sigma: float = Field(default=2.0, gt=0.0, le=1000.0)

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the blurred canvas."""
        sigma = self.config.sigma
        reach = min(math.ceil(3 * sigma), min(canvas_CHW.shape[-2:]) - 1)
        offsets = torch.arange(-reach, reach + 1, dtype=canvas_CHW.dtype, device=canvas_CHW.device)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum())[None, None]
        blurred = canvas_CHW
        for _ in range(2):  # rows, then columns
            lines = pad(blurred.flatten(0, 1)[:, None], (reach, reach), mode="reflect")
            blurred = conv1d(lines, kernel)[:, 0].unflatten(0, blurred.shape[:2]).transpose(1, 2)
        return _on_grid(blurred)


class LowResolution(PictureChange):
    """A picture that was scaled down and up again, such as a scan of low resolution."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            factor: By which each side is scaled down; the default is ours.
        """

        type: Literal["low-resolution"] = "low-resolution"
        factor: float = Field(default=4.0, gt=1.0, le=1000.0)

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the canvas with fewer details."""
        size = canvas_CHW.shape[-2:]
        few = [max(1, round(side / self.config.factor)) for side in size]
        small = interpolate(canvas_CHW[None], few, mode="bilinear", antialias=True, align_corners=False)
        return _on_grid(interpolate(small, list(size), mode="bilinear", align_corners=False)[0])


class Compression(PictureChange):
    """A picture that was kept as JPEG."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            quality: JPEG quality, of 1 to 95; the default is ours.
        """

        type: Literal["compression"] = "compression"
        quality: int = Field(default=10, ge=1, le=95)

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the canvas after compression."""
        bytes_HWC = (canvas_CHW * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        kept = io.BytesIO()
        Image.fromarray(bytes_HWC).save(kept, "JPEG", quality=self.config.quality)
        changed_HWC = torch.from_numpy(np.array(Image.open(kept).convert("RGB")))
        return changed_HWC.permute(2, 0, 1).to(canvas_CHW) / 255


class GaussianNoise(PictureChange):
    """Normal noise on each value of a picture, such as that of a sensor."""

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            deviation: Standard deviation of the noise, of the [0, 1] range; the default is ours.
        """

        type: Literal["gaussian-noise"] = "gaussian-noise"
        deviation: Frac = Field(default=Fraction(1, 10), gt=0, le=1)

    config: Config

    def change(self, canvas_CHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the noisy canvas."""
        noise_CHW = torch.randn(canvas_CHW.shape, generator=generator).to(canvas_CHW)
        return _on_grid(canvas_CHW + float(self.config.deviation) * noise_CHW)


CHANGES: dict[str, type[PictureChange]] = {
    change.name(): change for change in (Blank, BlackPatches, Blur, LowResolution, Compression, GaussianNoise)
}
"""The changes of pictures by name."""


def _picture_change(value: Any) -> Any:
    """Return the config of a change of pictures from its name, its mapping, or itself."""
    if isinstance(value, StrategyConfig):
        return value
    mapping = {"type": value} if isinstance(value, str) else value
    if not isinstance(mapping, Mapping) or mapping.get("type") not in CHANGES:
        name = mapping.get("type") if isinstance(mapping, Mapping) else value
        raise ValueError(f"There is no change of pictures {shown(repr(name))}. {nearest(str(name), CHANGES)}")
    return CHANGES[mapping["type"]].Config.model_validate(mapping)


def _changes_pictures(config: StrategyConfig) -> StrategyConfig:
    if not issubclass(config.strategy, PictureChange):
        raise ValueError(f"'{config.type}' changes no pictures. Give the config of a `saei.views.PictureChange`.")
    return config


Degradation: TypeAlias = Annotated[
    SerializeAsAny[StrategyConfig],
    AfterValidator(_changes_pictures),
    BeforeValidator(_picture_change, json_schema_input_type=str | dict[str, Any]),
]
"""The config of a change of pictures: its name, or a mapping with its type."""


def _on_grid(canvas_CHW: Tensor) -> Tensor:
    """Return a canvas in [0, 1] whose values are multiples of 1/255."""
    return (canvas_CHW.clamp(0, 1) * 255).round() / 255


def needs_picture(needs: Iterable[Need]) -> bool:
    """Return whether a need asks about a view with changed pictures; of a view without one it would tell nothing."""
    return any(
        isinstance(need.view, StrategyConfig) and issubclass(need.view.strategy, PictureChange) for need in needs
    )
