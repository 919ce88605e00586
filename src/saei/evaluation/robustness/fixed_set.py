"""Attacked pictures that every evaluated policy sees: made once by attacking a base, and stored as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from saei.evaluation.drawing import Perturbation
from saei.policy import Policy
from saei.policy.pixels.space import to_image
from saei.runtime.files import replacing, slug
from saei.types import Example, View


class FixedSet:
    """Pictures attacked once on a base and stored as PNG, the same for every policy that is evaluated.

    Args:
        folder: Where they are stored.
        policy: The policy that is evaluated; it looks at the PNGs as at any picture.
        base: Makes the views that are attacked for pictures that are missing.
        perturb: The attack: turns these views into adversarial ones.
    """

    def __init__(self, folder: Path, policy: Policy, base: Policy, perturb: Perturbation) -> None:
        self._folder, self._policy, self._base, self._perturb = folder, policy, base, perturb

    def __call__(self, views: Sequence[View]) -> list[View]:
        """Return views of the attacked pictures."""
        missing = {
            view.example.id: view for view in views if not all(file.exists() for file in self._files(view.example))
        }
        if missing:
            for moved in self._perturb([self._base.view(view.example, view.index) for view in missing.values()]):
                for canvas, file in zip(moved.canvases, self._files(moved.example), strict=True):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(file) as temporary:  # evaluations of several policies may make the same picture
                        to_image(canvas).save(temporary)
        return [self._view(view) for view in views]

    def _files(self, example: Example) -> list[Path]:
        name = slug(example.id)
        return [self._folder / f"{name}-{place}.png" for place in range(len(example.images))]

    def _view(self, view: View) -> View:
        images = []
        for file in self._files(view.example):
            with Image.open(file) as image:
                images.append(image.convert("RGB"))
        moved = replace(view.example, images=tuple(images))
        return replace(self._policy.view(moved, view.index), origin="adversarial")
